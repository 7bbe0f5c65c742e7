//! Tar archives for tests, well-formed or not, without the help of the code under test.

use tar::Header;

pub(crate) struct Tape(Vec<u8>);

impl Tape {
    pub(crate) fn new() -> Tape {
        Tape(Vec::new())
    }

    pub(crate) fn file(self, path: &str, content: &[u8]) -> Tape {
        self.entry(b'0', path.as_bytes(), b"", content, |_| {})
    }

    pub(crate) fn dir(self, path: &str) -> Tape {
        self.entry(b'5', path.as_bytes(), b"", b"", |header| header.set_mode(0o755))
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Tape {
        if target.len() > 100 {
            return self.pax(&[("linkpath", target.as_bytes())]).symlink(path, "x");
        }
        self.entry(b'2', path.as_bytes(), target.as_bytes(), b"", |_| {})
    }

    pub(crate) fn hard_link(self, path: &str, target: &str) -> Tape {
        if target.len() > 100 {
            return self.pax(&[("linkpath", target.as_bytes())]).hard_link(path, "x");
        }
        self.entry(b'1', path.as_bytes(), target.as_bytes(), b"", |_| {})
    }

    pub(crate) fn whiteout(self, path: &str) -> Tape {
        self.file(path, b"")
    }

    pub(crate) fn device(self, path: &str, major: u32, minor: u32) -> Tape {
        self.entry(b'3', path.as_bytes(), b"", b"", |header| {
            header.set_device_major(major).unwrap();
            header.set_device_minor(minor).unwrap();
        })
    }

    /// Any entry; `change` has the last word about the header, the checksum aside.
    pub(crate) fn entry(
        mut self,
        flag: u8,
        path: &[u8],
        link: &[u8],
        content: &[u8],
        change: impl FnOnce(&mut Header),
    ) -> Tape {
        let mut header = Header::new_ustar();
        let old = header.as_old_mut();
        old.name[..path.len()].copy_from_slice(path);
        old.linkname[..link.len()].copy_from_slice(link);
        old.linkflag[0] = flag;
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(content.len() as u64);
        header.set_device_major(0).unwrap();
        header.set_device_minor(0).unwrap();
        change(&mut header);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.raw(content)
    }

    /// A PAX header of these records, for the next entry.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Tape {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (rest + 1..).find(|all| rest + all.to_string().len() == *all).unwrap();
            data.extend_from_slice(format!("{length} {key}=").as_bytes());
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        self.entry(b'x', b"pax", b"", &data, |_| {})
    }

    /// Bytes, padded to a whole block.
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Tape {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }

    /// Without the mark of the end.
    pub(crate) fn cut(self) -> Vec<u8> {
        self.0
    }
}
