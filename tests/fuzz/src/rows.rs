//! The rows of a ledger's file as bytes, and a ledger's file in memory that holds them.
//!
//! ```text
//!  row:  | table u8 | job u8 | number u8 | length u16 LE | the row's bytes |
//! ```
//! `table` counts in [`TABLES`], and `number` is the index or the step of the row's key. Where the
//! key has a session, `job` is that.

use redb::backends::InMemoryBackend;
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction,
};

type ByJob<'a> = TableDefinition<'a, &'static str, &'static [u8]>;
type ByIndex<'a> = TableDefinition<'a, (&'static str, u64), &'static [u8]>;
type BySession<'a> = TableDefinition<'a, (u64, u64), &'static [u8]>;
type ByStep<'a> = TableDefinition<'a, (&'static str, u32, u64), &'static [u8]>;

const HEAD_BYTES: usize = 5;
/// The ids of jobs that rows may be of.
const JOBS: [&str; 4] = ["a", "ab", "b", "c"];

/// What a table's key consists of.
#[derive(Clone, Copy)]
enum Key {
    Job,
    JobAndIndex,
    JobStageAndStep,
    SessionAndNumber,
}

/// The tables of `ledger::tables`, which has what they hold.
const TABLES: [(&str, Key); 9] = [
    ("submissions", Key::Job),
    ("progress", Key::Job),
    ("removals", Key::Job),
    ("stages", Key::JobAndIndex),
    ("evals", Key::JobAndIndex),
    ("reward_versions", Key::JobAndIndex),
    ("metrics", Key::JobStageAndStep),
    ("metrics_blocks", Key::JobStageAndStep),
    ("answers", Key::SessionAndNumber),
];

/// Makes a ledger's file of the rows in `bytes`; what follows the last whole row is left out.
pub fn database(bytes: &[u8], format: u64) -> Result<Database, DatabaseError> {
    let database = Database::builder().create_with_backend(InMemoryBackend::new())?;
    let filled = || -> Result<(), redb::Error> {
        let write = database.begin_write()?;
        let mut version = write.open_table(TableDefinition::<&str, u64>::new("format"))?;
        version.insert("version", format)?;
        drop(version);
        let (mut rest, mut found) = (bytes, Vec::new());
        while let Some((head, behind)) = rest.split_first_chunk::<HEAD_BYTES>() {
            let length = u16::from_le_bytes([head[3], head[4]]) as usize;
            let (row, later) = behind.split_at(length.min(behind.len()));
            found.push((head[0] as usize, head[1] as usize, head[2] as u64, row));
            rest = later;
        }
        for (table, job, number, row) in found {
            insert(&write, table, job, number, row)?;
        }
        // A ledger's file has all tables, once a command with an id was carried out.
        (0..TABLES.len()).try_for_each(|table| touch(&write, table))?;
        Ok(write.commit()?)
    };
    filled().map_err(|error| {
        DatabaseError::Storage(redb::StorageError::Corrupted(error.to_string()))
    })?;
    Ok(database)
}

fn insert(
    write: &WriteTransaction,
    table: usize,
    place: usize,
    number: u64,
    row: &[u8],
) -> Result<(), redb::Error> {
    let (name, key) = TABLES[table % TABLES.len()];
    let job = JOBS[place % JOBS.len()];
    match key {
        Key::Job => drop(write.open_table(ByJob::new(name))?.insert(job, row)?),
        Key::JobAndIndex => {
            drop(
                write
                    .open_table(ByIndex::new(name))?
                    .insert((job, number), row)?,
            );
        }
        Key::JobStageAndStep => {
            let mut table = write.open_table(ByStep::new(name))?;
            drop(table.insert((job, 0, number), row)?);
        }
        Key::SessionAndNumber => {
            let mut table = write.open_table(BySession::new(name))?;
            drop(table.insert((place as u64, number), row)?);
        }
    }
    Ok(())
}

fn touch(write: &WriteTransaction, table: usize) -> Result<(), redb::Error> {
    let (name, key) = TABLES[table];
    match key {
        Key::Job => drop(write.open_table(ByJob::new(name))?),
        Key::JobAndIndex => drop(write.open_table(ByIndex::new(name))?),
        Key::JobStageAndStep => drop(write.open_table(ByStep::new(name))?),
        Key::SessionAndNumber => drop(write.open_table(BySession::new(name))?),
    }
    Ok(())
}

/// The rows of a ledger's file as [`database`] reads them. Jobs get ids of [`JOBS`], in order.
pub fn of(database: &Database) -> Result<Vec<u8>, redb::Error> {
    let read = database.begin_read()?;
    let mut jobs: Vec<String> = Vec::new();
    let mut bytes = Vec::new();
    let mut add = |table: usize, job: &str, number: u64, row: &[u8]| {
        let known = jobs.iter().position(|known| known == job);
        let place = known.unwrap_or_else(|| {
            jobs.push(job.to_owned());
            jobs.len() - 1
        });
        bytes.extend([table as u8, place as u8, number as u8]);
        bytes.extend((row.len() as u16).to_le_bytes());
        bytes.extend(row);
    };
    for (table, (name, key)) in TABLES.into_iter().enumerate() {
        match key {
            Key::Job => {
                for row in read.open_table(ByJob::new(name))?.iter()? {
                    let (job, row) = row?;
                    add(table, job.value(), 0, row.value());
                }
            }
            Key::JobAndIndex => {
                for row in read.open_table(ByIndex::new(name))?.iter()? {
                    let (key, row) = row?;
                    add(table, key.value().0, key.value().1, row.value());
                }
            }
            Key::JobStageAndStep => {
                for row in read.open_table(ByStep::new(name))?.iter()? {
                    let (key, row) = row?;
                    add(table, key.value().0, key.value().2, row.value());
                }
            }
            Key::SessionAndNumber => {
                let answers = match read.open_table(BySession::new(name)) {
                    Err(redb::TableError::TableDoesNotExist(_)) => continue,
                    answers => answers?,
                };
                for row in answers.iter()? {
                    let (key, row) = row?;
                    add(
                        table,
                        &key.value().0.to_string(),
                        key.value().1,
                        row.value(),
                    );
                }
            }
        }
    }
    Ok(bytes)
}
