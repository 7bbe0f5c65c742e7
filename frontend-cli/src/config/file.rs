//! One configuration file: TOML, of which every key must be known.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Config, KNOWN};
use crate::dockerfile::nearest;
use crate::report::{CliError, ErrorKind, Excerpt, Problem};

/// Nobody writes more settings than this, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// What is set in the file; `None` if it is not there.
pub(super) fn read(path: &Path) -> Result<Option<Config>, CliError> {
    use std::io::{ErrorKind::NotADirectory, ErrorKind::NotFound, Read};
    let failed = |error| CliError::caused("cannot read the configuration", &error);
    let file = match fs_err::File::open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), NotFound | NotADirectory) => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text).map_err(failed)?;
    parse(&text, &path.display().to_string()).map(Some)
}

/// All mistakes are told at once.
fn parse(text: &str, file: &str) -> Result<Config, CliError> {
    let mut reading = Reading { text, file, config: Config::default(), problems: Vec::new() };
    match DeTable::parse(text) {
        Ok(table) => reading.table("", table.get_ref()),
        Err(error) => {
            let span = error.span().unwrap_or_default();
            let problem = Problem::new(error.message()).at(reading.excerpt(span));
            reading.problems.push(problem);
        }
    }
    match reading.problems.is_empty() {
        true => Ok(reading.config),
        false => Err(CliError::new(ErrorKind::Input, reading.problems)),
    }
}

struct Reading<'a> {
    text: &'a str,
    file: &'a str,
    config: Config,
    problems: Vec<Problem>,
}

impl Reading<'_> {
    /// The table `name`, which is empty for the file itself.
    fn table(&mut self, name: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let word = key.get_ref().as_ref();
            let is_table = name.is_empty() && KNOWN.iter().any(|known| known.table == word);
            match value.get_ref() {
                DeValue::Table(inner) if is_table => self.table(word, inner),
                _ => self.setting(name, key, value),
            }
        }
    }

    fn setting(
        &mut self,
        table: &str,
        key: &Spanned<std::borrow::Cow<'_, str>>,
        value: &Spanned<DeValue<'_>>,
    ) {
        let word = key.get_ref().as_ref();
        let known = KNOWN.iter().find(|known| known.table == table && known.name == word);
        let Some(known) = known else {
            let place =
                if table.is_empty() { String::new() } else { format!(" in table [{table}]") };
            let problem = Problem::new(format!("unknown key `{word}`{place}"));
            let problem = problem.at(self.excerpt(key.span())).hint(hint(table, word));
            self.problems.push(problem);
            return;
        };
        let set = match texts(value.get_ref()) {
            Some(values) => self.config.set(known.key, &values),
            None => {
                let found = value.get_ref().type_str();
                Err(CliError::input(format!("`{word}` cannot be of type {found}")))
            }
        };
        if let Err(error) = set {
            self.problems.extend(error.at(self.excerpt(value.span())).into_problems());
        }
    }

    fn excerpt(&self, span: std::ops::Range<usize>) -> Excerpt {
        Excerpt { file: self.file.to_owned(), source: self.text.to_owned(), span, label: None }
    }
}

/// A value as it would be written on a command line, or each of a list; `None` for what cannot be.
fn texts<'a>(value: &'a DeValue<'_>) -> Option<Vec<&'a str>> {
    match value {
        DeValue::String(text) => Some(vec![text]),
        DeValue::Integer(number) if number.radix() == 10 => Some(vec![number.as_str()]),
        DeValue::Array(values) => {
            values.iter().map(|value| value.get_ref().as_str()).collect::<Option<Vec<_>>>()
        }
        _ => None,
    }
}

/// Where the key belongs, or what is like it, or what there is.
fn hint(table: &str, word: &str) -> String {
    if let Some(known) = KNOWN.iter().find(|known| known.name == word) {
        return match known.table {
            "" => format!("`{word}` stands before the first table"),
            table => format!("`{word}` belongs in table [{table}]"),
        };
    }
    let mut names: Vec<&str> =
        KNOWN.iter().filter(|known| known.table == table).map(|known| known.name).collect();
    if table.is_empty() {
        names.extend(KNOWN.iter().map(|known| known.table).filter(|table| !table.is_empty()));
        names.dedup();
    }
    match nearest(word, names.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("known here: {}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::space::Space;

    #[test]
    fn every_key_is_read() {
        let text = "\
root = '/data/strake'   # a comment
max-parallelism = 4

[gc]
reservedSpace = \"5GB\"
maxUsedSpace = 1048576
minFreeSpace = \"20%\"

[history]
maxEntries = 7
maxSize = \"10m\"

[cdi]
specDirs = [\"/etc/cdi\", \"/opt/cdi\"]
";
        let config = parse(text, "strake.toml").unwrap();
        assert_eq!(config.root.unwrap(), Path::new("/data/strake"));
        assert_eq!(config.max_parallelism.unwrap().get(), 4);
        assert_eq!(config.cache.reserved, Some(Space::Bytes(5 << 30)));
        assert_eq!(config.cache.max_used, Some(Space::Bytes(1 << 20)));
        assert_eq!(config.cache.min_free, Some(Space::Percent(20)));
        assert_eq!((config.history_builds, config.history_bytes), (Some(7), Some(10 << 20)));
        assert_eq!(config.cdi_spec_dirs.unwrap().len(), 2);
        assert_eq!(parse("", "strake.toml").unwrap(), Config::default());
    }

    #[test]
    fn mistakes_are_told_with_their_line_and_a_hint() {
        for (text, parts) in [
            (
                "[gc]\nmaxUsedSpce = 1\n",
                &["unknown key `maxUsedSpce` in table [gc]", "x:2:1", "`maxUsedSpace`?"][..],
            ),
            ("maxSize = 1\n", &["unknown key `maxSize`", "x:1:1", "belongs in table [history]"]),
            ("[gc]\nroot = '/x'\n", &["x:2:1", "`root` stands before the first table"]),
            ("[log]\n", &["unknown key `log`", "x:1:2", "root, max-parallelism, gc, history, cdi"]),
            ("[gc]\nminFreeSpace = '200%'\n", &["invalid size `200%`", "x:2:16", "1% and 100%"]),
            (
                "max-parallelism = true\n",
                &["`max-parallelism` cannot be of type boolean", "x:1:19"],
            ),
            ("max-parallelism = [\"1\", \"2\"]\n", &["one value, not a list", "x:1:19"]),
            ("[history]\nmaxEntries = -1\n", &["invalid number `-1`", "x:2:14"]),
            ("root = 'data'\n", &["`data` is not an absolute path", "x:1:8"]),
            ("gc = 3\n", &["unknown key `gc`", "x:1:1"]),
            ("[gc\n", &["x:1:"]),
            ("root = '/a'\nroot = '/b'\n", &["duplicate key", "x:2:1"]),
        ] {
            let message = parse(text, "x").unwrap_err().text();
            for part in parts {
                assert!(message.contains(part), "{text}: {part} is not in\n{message}");
            }
        }
        let both = parse("a = 1\nb = 2\n", "x").unwrap_err().text();
        assert!(both.contains("`a`") && both.contains("`b`"), "{both}");
    }
}
