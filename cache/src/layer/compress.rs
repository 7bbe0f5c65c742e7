//! Compressed layers: gzip and zstd, in both directions.
//!
//! Compression is deterministic whatever the machine: gzip is a sequence of independent members of
//! one mebibyte each, compressed in parallel and written in order; zstd splits its input by its own
//! fixed parameters. The number of threads changes neither.

use std::collections::VecDeque;
use std::io::{self, BufReader, Read, Write};
use std::sync::mpsc::{Receiver, sync_channel};

use flate2::bufread::MultiGzDecoder;
use libdeflater::{CompressionLvl, Compressor};

use crate::error::LayerError;
use crate::oci::MediaType;

/// Input per gzip member. Smaller ones compress worse (a member of 1 MiB costs 0.2 % against one
/// stream), larger ones keep more memory and fewer threads busy.
const MEMBER_BYTES: usize = 1 << 20;

/// zstd's output depends on whether it has workers, not on how many.
const ZSTD_WORKERS: u32 = 2;

/// zstd's own default: frames that want a larger window (they could ask for gigabytes) are refused.
const ZSTD_WINDOW_LOG: u32 = 27;

const BUFFER_BYTES: usize = 128 << 10;

/// How a layer travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// As it is.
    None,
    /// Levels 0 to 12, of libdeflate; 6 is usual. Higher ones mean 12.
    Gzip(u32),
    /// Levels 1 to 22; 3 is usual. Higher ones mean 22.
    Zstd(i32),
}

/// Compresses everything from `input` to `output`. CPU-bound, on all cores: call it where blocking
/// is allowed.
pub fn compress(
    compression: Compression,
    input: &mut dyn Read,
    output: &mut dyn Write,
) -> Result<(), LayerError> {
    match compression {
        Compression::None => copy(input, output),
        Compression::Gzip(level) => gzip(level, input, output),
        Compression::Zstd(level) => zstd(level, input, output),
    }
}

/// Decompresses a layer by its media type or, without one, by its first bytes. Concatenated
/// members and frames are one stream. Memory is bounded; what comes out is not, so bound that with
/// [`super::UnpackLimits`].
///
/// # Errors
/// [`LayerError::UnsupportedMediaType`], and [`LayerError::Read`] if the first bytes cannot be
/// read.
pub fn decompressor(
    media_type: Option<&MediaType>,
    reader: impl Read + Send + 'static,
) -> Result<Box<dyn Read + Send>, LayerError> {
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, reader);
    let form = match media_type {
        Some(media_type) => form_of(media_type)?,
        None => sniff(&mut reader)?,
    };
    Ok(match form {
        Form::Plain => Box::new(reader),
        Form::Gzip => Box::new(MultiGzDecoder::new(reader)),
        Form::Zstd => {
            let read = |source| LayerError::Read { source };
            let mut decoder = zstd::stream::read::Decoder::with_buffer(reader).map_err(read)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(read)?;
            Box::new(decoder)
        }
    })
}

enum Form {
    Plain,
    Gzip,
    Zstd,
}

fn form_of(media_type: &MediaType) -> Result<Form, LayerError> {
    let text = media_type.to_string();
    // Docker's and OCI's, distributable or not.
    let form = if text.ends_with("+zstd") || text.ends_with(".tar.zstd") {
        Form::Zstd
    } else if text.ends_with("+gzip") || text.ends_with(".tar.gzip") {
        Form::Gzip
    } else if text.ends_with(".tar") {
        Form::Plain
    } else {
        return Err(LayerError::UnsupportedMediaType { media_type: media_type.clone() });
    };
    Ok(form)
}

fn sniff(reader: &mut BufReader<impl Read>) -> Result<Form, LayerError> {
    use std::io::BufRead;
    let start = loop {
        match reader.fill_buf() {
            Ok(start) => break start,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(LayerError::Read { source }),
        }
    };
    Ok(match start {
        [0x1f, 0x8b, ..] => Form::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Form::Zstd,
        // A skippable frame in front, as zstd:chunked and pzstd write.
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Form::Zstd,
        _ => Form::Plain,
    })
}

fn copy(input: &mut dyn Read, output: &mut dyn Write) -> Result<(), LayerError> {
    let mut block = vec![0; MEMBER_BYTES];
    loop {
        let length = read_block(input, &mut block)?;
        if length == 0 {
            return flush(output);
        }
        write(output, &block[..length])?;
    }
}

fn gzip(level: u32, input: &mut dyn Read, output: &mut dyn Write) -> Result<(), LayerError> {
    // Enough that every thread has one in hand and one waiting.
    let ahead = 2 * rayon::current_num_threads();
    // On a thread of the pool, waiting for the pool could wait for itself.
    let is_in_pool = rayon::current_thread_index().is_some();
    let mut members: VecDeque<Receiver<Vec<u8>>> = VecDeque::with_capacity(ahead);
    let mut is_empty = true;
    loop {
        let mut block = vec![0; MEMBER_BYTES];
        let length = read_block(input, &mut block)?;
        block.truncate(length);
        // An empty input still is one member.
        if length == 0 && !is_empty {
            break;
        }
        is_empty = false;
        let (sender, receiver) = sync_channel(1);
        let work = move || {
            // Nobody receives if the output failed.
            let _ = sender.send(gzip_member(level, &block));
        };
        if is_in_pool {
            work()
        } else {
            rayon::spawn(work)
        }
        members.push_back(receiver);
        if members.len() == ahead
            && let Some(first) = members.pop_front()
        {
            write_member(&first, output)?;
        }
        if length == 0 {
            break;
        }
    }
    for member in members {
        write_member(&member, output)?;
    }
    flush(output)
}

/// One gzip member; its header has no name and no time.
fn gzip_member(level: u32, block: &[u8]) -> Vec<u8> {
    let level = CompressionLvl::new(level.min(12).cast_signed()).unwrap_or_default();
    let mut compressor = Compressor::new(level);
    let mut member = vec![0; compressor.gzip_compress_bound(block.len())];
    let length = compressor
        .gzip_compress(block, &mut member)
        .expect("the bound that libdeflate gave is enough for libdeflate");
    member.truncate(length);
    member
}

fn write_member(member: &Receiver<Vec<u8>>, output: &mut dyn Write) -> Result<(), LayerError> {
    let member = member.recv().map_err(|_| LayerError::Write {
        source: io::Error::other("a compressing thread ended before its time"),
    })?;
    write(output, &member)
}

fn zstd(level: i32, input: &mut dyn Read, output: &mut dyn Write) -> Result<(), LayerError> {
    let failed = |source| LayerError::Write { source };
    let mut encoder =
        zstd::stream::write::Encoder::new(&mut *output, level.clamp(1, 22)).map_err(failed)?;
    encoder.multithread(ZSTD_WORKERS).map_err(failed)?;
    encoder.include_checksum(true).map_err(failed)?;
    let mut block = vec![0; MEMBER_BYTES];
    loop {
        let length = read_block(input, &mut block)?;
        if length == 0 {
            break;
        }
        encoder.write_all(&block[..length]).map_err(failed)?;
    }
    encoder.finish().map_err(failed)?;
    flush(output)
}

/// Fills `block`, unless the input ends.
fn read_block(input: &mut dyn Read, block: &mut [u8]) -> Result<usize, LayerError> {
    let mut length = 0;
    while length < block.len() {
        match input.read(&mut block[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(LayerError::Read { source }),
        }
    }
    Ok(length)
}

fn write(output: &mut dyn Write, bytes: &[u8]) -> Result<(), LayerError> {
    output.write_all(bytes).map_err(|source| LayerError::Write { source })
}

fn flush(output: &mut dyn Write) -> Result<(), LayerError> {
    output.flush().map_err(|source| LayerError::Write { source })
}
