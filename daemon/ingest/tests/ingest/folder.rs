//! The folder of token sets: made once, shared, made again when damaged, removed when nobody needs
//! them.

use crate::{file, golden, source};
use r1d_ingest::make::Watch;
use r1d_ingest::{
    Contents, Done, GetError, Key, Lengths, MakeError, Maker, Prompts, Rendering, Request, Rows,
    RowsRef, SetError, TokenSet, TokenSets,
};
use r1d_job::{DataSource, TemplateSource};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Hashes each file whenever it is asked.
struct Hashed;

impl Contents for Hashed {
    fn sha256(&self, path: &Path) -> io::Result<String> {
        let hash = Sha256::digest(std::fs::read(path)?);
        Ok(hash.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

const BYTES_MAX: u64 = 1 << 30;
const MAKER: Maker = Maker::InProcess;

fn folder() -> (tempfile::TempDir, TokenSets) {
    let dir = tempfile::tempdir().unwrap();
    let sets = TokenSets::open(&dir.path().join("sets"), "build".into(), MAKER, BYTES_MAX).unwrap();
    (dir, sets)
}

fn lines(prompts: &[&str]) -> String {
    let row = |prompt: &&str| format!("{{\"question\": \"{prompt}\", \"kind\": \"k\"}}\n");
    prompts.iter().map(row).collect()
}

fn request(path: &Path) -> Request {
    let source = DataSource {
        prompt: Some("question".into()),
        domain: Some("kind".into()),
        ..source(path)
    };
    Request::Rows {
        files: vec![path.into()],
        source,
    }
}

fn get(sets: &TokenSets, request: &Request) -> Result<Arc<TokenSet>, GetError> {
    sets.get(request, &Hashed, &mut |_| true)
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir.join("sets")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

fn prompts(rows: &TokenSet, path: &Path, template: TemplateSource, date: &str) -> Request {
    Request::Prompts {
        rows: RowsRef {
            key: *rows.key(),
            name: "train".into(),
            files: vec![path.into()],
        },
        rendering: Rendering {
            template,
            date: Some(date.into()),
            chat_template_kwargs: "{}".into(),
            tools: None,
        },
        tokenizer: golden("plain"),
        lengths: Lengths::default(),
    }
}

#[test]
fn a_set_is_made_once_shared_and_found_again() {
    let (dir, sets) = folder();
    let (_data, path) = file("a.jsonl", &lines(&["one", "two"]));
    let first = get(&sets, &request(&path)).unwrap();
    assert!(Arc::ptr_eq(&first, &get(&sets, &request(&path)).unwrap()));
    // The same contents elsewhere, under another name, are the same set.
    let (_other, copy) = file("b.jsonl", &lines(&["one", "two"]));
    assert!(Arc::ptr_eq(&first, &get(&sets, &request(&copy)).unwrap()));
    let name = first.key().to_string();
    assert_eq!(names(dir.path()).concat(), name);
    let mode = |path: PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(dir.path().join("sets")), 0o700);
    assert_eq!(mode(dir.path().join("sets").join(&name)), 0o400);

    let rows = Rows::open(first, "train", vec![path.clone()]).unwrap();
    assert_eq!(rows.row(1).unwrap().prompt.as_deref(), Some("two"));
    assert_eq!(rows.domains(), BTreeSet::from(["k"]));
    let wrong = rows.wrong(1, "it is odd").to_string();
    assert_eq!(
        wrong,
        format!("data.train: row 2 ({}:2): it is odd", path.display())
    );

    // A new daemon finds the file and makes nothing.
    let again =
        TokenSets::open(&dir.path().join("sets"), "build".into(), MAKER, BYTES_MAX).unwrap();
    let mut heard = 0;
    let found = again.get(&request(&path), &Hashed, &mut |status| {
        heard += status.done().rows;
        false
    });
    assert_eq!((found.unwrap().len(), heard), (2, 0));
}

#[test]
fn other_contents_columns_formats_and_builds_are_other_sets() {
    let (dir, sets) = folder();
    let (_data, path) = file("a.jsonl", &lines(&["one", "two"]));
    let mut keys = BTreeSet::from([*get(&sets, &request(&path)).unwrap().key()]);
    std::fs::write(&path, lines(&["one", "three"])).unwrap();
    keys.insert(*get(&sets, &request(&path)).unwrap().key());
    let Request::Rows { source, files } = request(&path) else {
        panic!("rows")
    };
    let source = DataSource {
        reference: Some("kind".into()),
        ..source
    };
    keys.insert(*get(&sets, &Request::Rows { source, files }).unwrap().key());
    let other =
        TokenSets::open(&dir.path().join("sets"), "other".into(), MAKER, BYTES_MAX).unwrap();
    keys.insert(*get(&other, &request(&path)).unwrap().key());
    assert_eq!(keys.len(), 4);
}

#[test]
fn prompts_depend_on_template_and_on_a_date_that_is_asked_for() {
    let (_dir, sets) = folder();
    let (_data, path) = file("a.jsonl", &lines(&["one", "two"]));
    let rows = get(&sets, &request(&path)).unwrap();
    let key = |template, date: &str| {
        *get(&sets, &prompts(&rows, &path, template, date))
            .unwrap()
            .key()
    };
    let plain = key(TemplateSource::Plain, "2024-07-04");
    assert_eq!(
        plain,
        key(TemplateSource::Plain, "2024-07-05"),
        "it asks for no date"
    );
    assert_ne!(plain, key(TemplateSource::R1Zero, "2024-07-04"));
    let (_own, template) = file(
        "own.jinja",
        "{{ strftime_now('%d') }}{% for m in messages %}{{ m.content }}{% endfor %}",
    );
    let own = |date: &str| key(TemplateSource::File(template.clone()), date);
    assert_ne!(own("2024-07-04"), own("2024-07-05"));
    let set = get(
        &sets,
        &prompts(
            &rows,
            &path,
            TemplateSource::File(template.clone()),
            "2024-07-04",
        ),
    );
    let read = Prompts::open(set.unwrap()).unwrap();
    assert_eq!(read.at(1).unwrap().text, "04two");
    let before = own("2024-07-04");
    std::fs::write(
        &template,
        "{% for m in messages %}{{ m.content }}!{% endfor %}",
    )
    .unwrap();
    assert_ne!(
        before,
        own("2024-07-04"),
        "another template under the same name"
    );
}

/// Damage of every kind, before the daemon starts and while it runs.
#[test]
fn a_set_that_is_damaged_is_made_again() {
    let (dir, sets) = folder();
    let (_data, path) = file("a.jsonl", &lines(&["one", "two", "three"]));
    let key = *get(&sets, &request(&path)).unwrap().key();
    let place = dir.path().join("sets").join(key.to_string());
    let whole = std::fs::read(&place).unwrap();
    let replace = |bytes: &[u8]| {
        std::fs::remove_file(&place).unwrap();
        std::fs::write(&place, bytes).unwrap();
    };
    let mut header = whole.clone();
    header[50] ^= 1;
    let longer = [&whole[..], b"more"].concat();
    for damaged in [
        &whole[..10],
        &whole[..whole.len() - 1],
        &longer,
        &header,
        b"",
        b"{}\n",
    ] {
        replace(damaged);
        let set = get(&sets, &request(&path)).unwrap();
        assert_eq!(set.len(), 3);
        assert_eq!(
            std::fs::read(&place).unwrap(),
            whole,
            "it is the same set again"
        );
    }
}

/// A byte of a row: the set opens, and the damage shows when the row is read.
#[test]
fn damage_that_shows_later_is_mended_when_the_set_is_asked_for_again() {
    let (dir, sets) = folder();
    let (_data, path) = file("a.jsonl", &lines(&vec!["a prompt"; 5000]));
    let key = *get(&sets, &request(&path)).unwrap().key();
    let place = dir.path().join("sets").join(key.to_string());
    let mut row = std::fs::read(&place).unwrap();
    row[140] ^= 1;
    std::fs::remove_file(&place).unwrap();
    std::fs::write(&place, row).unwrap();
    let set = get(&sets, &request(&path)).unwrap();
    assert_eq!(
        set.record(4999).unwrap().len(),
        set.record(4998).unwrap().len()
    );
    assert!(matches!(set.record(0), Err(SetError::Damaged(_))) && set.is_damaged());
    // Whoever met the damage closes the set before somebody asks for it again.
    drop(set);
    let again = get(&sets, &request(&path)).unwrap();
    assert!(again.record(0).is_ok() && !again.is_damaged());
}

#[test]
fn a_file_that_changes_while_it_is_read_makes_no_set() {
    let (dir, sets) = folder();
    let many = vec!["a prompt"; 3000];
    let (_data, path) = file("a.jsonl", &lines(&many));
    let watch: Watch<'_> = &mut |_| {
        std::fs::write(&path, lines(&["other"])).unwrap();
        true
    };
    let error = sets
        .get(&request(&path), &Hashed, watch)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("a.jsonl") && error.contains("changes while it is read"),
        "{error}"
    );
    assert!(names(dir.path()).is_empty());
}

/// Who waits for a set hears of its rows and bytes, of all bytes that there are to read.
#[test]
fn progress_is_told_in_rows_and_bytes() {
    let (_dir, sets) = folder();
    let (_data, path) = file("a.jsonl", &lines(&vec!["a prompt"; 10_000]));
    let mut reading = Vec::new();
    let rows = sets.get(&request(&path), &Hashed, &mut |status| {
        reading.push(status.done());
        true
    });
    let rows = rows.unwrap();
    let mut tokenising = Vec::new();
    let request = prompts(&rows, &path, TemplateSource::Plain, "2026-01-01");
    let watch: Watch<'_> = &mut |status| {
        tokenising.push(status.done());
        true
    };
    sets.get(&request, &Hashed, watch).unwrap();
    let file_bytes = std::fs::metadata(&path).unwrap().len();
    for (told, bytes_total) in [(reading, file_bytes), (tokenising, rows.data_bytes())] {
        let heard: Vec<u64> = told.iter().map(|done| done.rows).collect();
        assert_eq!(heard, (1..10).map(|k| 1024 * k).collect::<Vec<_>>());
        for Done {
            rows,
            bytes,
            bytes_total: total,
        } in told
        {
            let share = bytes_total as f64 * rows as f64 / 10_000.0;
            assert_eq!(total, bytes_total);
            assert!(
                (bytes as f64 - share).abs() < 20_000.0,
                "{bytes} of {total} at row {rows}"
            );
        }
    }
}

#[test]
fn who_leaves_ends_the_making_and_leaves_nothing() {
    let (dir, sets) = folder();
    let (_data, path) = file("a.jsonl", &lines(&vec!["a prompt"; 5000]));
    let calls = AtomicU64::new(0);
    let watch: Watch<'_> = &mut |_| calls.fetch_add(1, Ordering::Relaxed) == 0;
    let error = sets.get(&request(&path), &Hashed, watch).unwrap_err();
    assert!(
        matches!(error, GetError::Make(MakeError::Unwanted)),
        "{error}"
    );
    assert_eq!(calls.load(Ordering::Relaxed), 2, "it ends at the next look");
    assert!(names(dir.path()).is_empty());
    let error = get(&sets, &request(Path::new("/nowhere.jsonl")))
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("cannot read /nowhere.jsonl: "), "{error}");
}

/// Many who want the same set at once, in two daemons: all have it, whole.
#[test]
fn two_daemons_and_many_jobs_do_not_race() {
    let (dir, sets) = folder();
    let other =
        TokenSets::open(&dir.path().join("sets"), "build".into(), MAKER, BYTES_MAX).unwrap();
    let (_data, path) = file("a.jsonl", &lines(&vec!["a prompt"; 2000]));
    let request = request(&path);
    let sets: Vec<Arc<TokenSet>> = std::thread::scope(|scope| {
        let getters: Vec<_> = (0..8)
            .map(|i| {
                let (sets, request) = (if i % 2 == 0 { &sets } else { &other }, &request);
                scope.spawn(move || get(sets, request).unwrap())
            })
            .collect();
        getters
            .into_iter()
            .map(|getter| getter.join().unwrap())
            .collect()
    });
    let of_first = sets.iter().filter(|set| Arc::ptr_eq(set, &sets[0])).count();
    assert_eq!(of_first, 4, "the jobs of a daemon share one");
    assert!(
        sets.iter()
            .all(|set| set.len() == 2000 && set.record(1999).is_ok())
    );
    assert_eq!(names(dir.path()), [sets[0].key().to_string()]);
}

#[test]
fn sets_that_nobody_needs_are_removed_the_oldest_first() {
    let (dir, sets) = folder();
    let (_data, path) = file("a.jsonl", "");
    let mut keys: Vec<Key> = Vec::new();
    let mut held = None;
    for (index, text) in ["a", "b", "c", "d"].into_iter().enumerate() {
        std::fs::write(&path, lines(&[text])).unwrap();
        let set = get(&sets, &request(&path)).unwrap();
        keys.push(*set.key());
        let place = dir.path().join("sets").join(set.key().to_string());
        let used = std::time::UNIX_EPOCH + std::time::Duration::from_secs(100 - index as u64);
        std::fs::File::open(place)
            .unwrap()
            .set_modified(used)
            .unwrap();
        if text == "d" {
            held = Some(set);
        }
    }
    let bytes = std::fs::metadata(dir.path().join("sets").join(keys[0].to_string()))
        .unwrap()
        .len();
    let shown = |keys: &[Key]| {
        let mut names: Vec<String> = keys.iter().map(Key::to_string).collect();
        names.sort();
        names
    };
    assert_eq!(
        sets.collect(&BTreeSet::new(), 4 * bytes).unwrap(),
        0,
        "there is room"
    );
    // The oldest is open, the next is needed: the third goes.
    let needed = BTreeSet::from([keys[2]]);
    assert_eq!(sets.collect(&needed, 3 * bytes).unwrap(), bytes);
    assert_eq!(names(dir.path()), shown(&[keys[0], keys[2], keys[3]]));
    drop(held);
    assert_eq!(sets.collect(&needed, 0).unwrap(), 2 * bytes);
    assert_eq!(names(dir.path()), shown(&[keys[2]]));
}

/// What a killed daemon left goes when the next one starts.
#[test]
fn parts_of_a_killed_daemon_are_removed() {
    let (dir, _sets) = folder();
    std::fs::write(dir.path().join("sets/.abc.1-0.part"), "half").unwrap();
    TokenSets::open(&dir.path().join("sets"), "build".into(), MAKER, BYTES_MAX).unwrap();
    assert!(names(dir.path()).is_empty());
}
