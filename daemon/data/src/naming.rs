//! Recognises files of a wrong kind by their first bytes, so that an error can say what they are
//! and what to do.

/// Number of bytes that [`instead`] needs.
pub const HEAD_BYTES: usize = 512;

/// The kind of a file that begins with `head`, and what to do about it; `None` if the bytes may be
/// text.
pub fn instead(head: &[u8]) -> Option<&'static str> {
    let text = head.trim_ascii_start();
    let begins = |text: &[u8], with: &str| {
        text.get(..with.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(with.as_bytes()))
    };
    const MAGIC: [(&[u8], &str); 13] = [
        (
            b"version https://git-lfs.github.com/spec/",
            "a git-lfs pointer, not the file itself: fetch it with `git lfs pull`",
        ),
        (b"PK\x03\x04", "a zip archive: unpack it"),
        (b"\x1f\x8b", "a gzip file: unpack it"),
        (b"\x28\xb5\x2f\xfd", "a zstd file: unpack it"),
        (b"BZh", "a bzip2 file: unpack it"),
        (b"\xfd7zXZ\x00", "an xz file: unpack it"),
        (b"7z\xbc\xaf\x27\x1c", "a 7-zip archive: unpack it"),
        (b"PAR1", "a Parquet file: let its name end in .parquet"),
        (
            b"ARROW1",
            "an Arrow file: write it as Parquet or JSON lines",
        ),
        (
            b"\xff\xff\xff\xff",
            "an Arrow stream: write it as Parquet or JSON lines",
        ),
        (
            b"\x80\x04\x95",
            "a Python pickle: write it as Parquet or JSON lines",
        ),
        (b"\xff\xfe", "text in UTF-16: save it as UTF-8"),
        (b"\xfe\xff", "text in UTF-16: save it as UTF-8"),
    ];
    if let Some((_, what)) = MAGIC.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Some(what);
    }
    if begins(text, "<!doctype html") || begins(text, "<html") {
        return Some("an HTML page, as a download that failed leaves it: fetch the file itself");
    }
    if head.get(257..262) == Some(b"ustar") {
        return Some("a tar archive: unpack it");
    }
    // This is a protocol buffer whose first piece is the unknown token.
    if head.first() == Some(&0x0a)
        && head.windows(5).take(64).any(|window| window == b"<unk>")
        && head.contains(&0x15)
    {
        return Some(SENTENCEPIECE);
    }
    let zeros = |from: usize| {
        head.iter()
            .skip(from)
            .step_by(2)
            .take(16)
            .all(|byte| *byte == 0)
    };
    if head.len() >= 8 && (zeros(0) != zeros(1)) {
        return Some("text in UTF-16: save it as UTF-8");
    }
    None
}

/// The message about a SentencePiece model, which is not a tokenizer.json.
pub const SENTENCEPIECE: &str = "a SentencePiece model: write a tokenizer.json with \
                                 AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR) of \
                                 transformers";
