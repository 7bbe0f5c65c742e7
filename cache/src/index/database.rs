//! The connection: opened when first needed, replaced when the file is damaged.
//!
//! Who closes it last neither brings the write-ahead log into the database nor removes the log and
//! its index, as SQLite would: a command that only read would make and remove two files, and one that
//! wrote would wait for the disk. [`Database::checkpoint`] does it, from the process that brings what
//! was stored to the disk.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};

use crate::error::StoreError;
use crate::state::random;

/// Counts up with the tables. Another number is another format: begun anew.
const SCHEMA_VERSION: i64 = 1;

const SCHEMA: &str = "
    CREATE TABLE records (
        key BLOB PRIMARY KEY,
        op BLOB NOT NULL,
        name TEXT NOT NULL,
        outputs TEXT NOT NULL,
        ingredients BLOB NOT NULL,
        created TEXT NOT NULL,
        used INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX records_by_op ON records (op);
    CREATE TABLE latest (
        scope TEXT NOT NULL,
        name TEXT NOT NULL,
        key BLOB NOT NULL,
        PRIMARY KEY (scope, name)
    ) WITHOUT ROWID;
    CREATE TABLE layer_blobs (
        diff_id BLOB NOT NULL,
        kind TEXT NOT NULL,
        descriptor TEXT NOT NULL,
        PRIMARY KEY (diff_id, kind)
    ) WITHOUT ROWID;
    CREATE TABLE kept (
        space TEXT NOT NULL,
        key TEXT NOT NULL,
        value BLOB NOT NULL,
        PRIMARY KEY (space, key)
    ) WITHOUT ROWID;
";

/// Another process writes for microseconds; who waits longer than this sits behind a stopped one.
const BUSY_PATIENCE: Duration = Duration::from_secs(30);

/// The index has some fifteen statements.
const CACHED_STATEMENTS: usize = 32;

/// One connection per process, used by one thread at a time.
#[derive(Debug)]
pub(super) struct Database {
    path: PathBuf,
    connection: Mutex<Option<Connection>>,
}

impl Database {
    pub(super) fn new(path: PathBuf) -> Database {
        Database { path, connection: Mutex::new(None) }
    }

    /// Runs a query.
    pub(super) fn read<T>(
        &self,
        query: impl Fn(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        self.with("read", |connection| query(connection))
    }

    /// Runs statements in one transaction.
    pub(super) fn write(
        &self,
        statements: impl Fn(&Transaction<'_>) -> rusqlite::Result<()>,
    ) -> Result<(), StoreError> {
        self.with("write", |connection| {
            // Not deferred: a transaction that begins by reading cannot wait for its turn to write.
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            statements(&transaction)?;
            transaction.commit()
        })
    }

    /// Empties the write-ahead log into the database, unless somebody uses it just now.
    pub(super) fn checkpoint(&self) -> Result<(), StoreError> {
        if !self.path.exists() {
            return Ok(());
        }
        self.with("tidy", |connection| {
            connection.busy_timeout(Duration::ZERO)?;
            let result = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
            connection.busy_timeout(BUSY_PATIENCE)?;
            match result {
                Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => Ok(()),
                result => result,
            }
        })
    }

    fn with<T>(
        &self,
        attempt: &'static str,
        work: impl Fn(&mut Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let failed = |source| StoreError::Index { attempt, path: self.path.clone(), source };
        let mut slot = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let first = self.connected(&mut slot).and_then(&work);
        match first {
            Err(error) if is_damaged(&error) => {
                *slot = None;
                tracing::warn!("the build index is damaged and begun anew: {error}");
                move_aside(&self.path);
                self.connected(&mut slot).and_then(work).map_err(failed)
            }
            result => result.map_err(failed),
        }
    }

    fn connected<'a>(
        &self,
        slot: &'a mut Option<Connection>,
    ) -> rusqlite::Result<&'a mut Connection> {
        let connection = match slot.take() {
            Some(connection) => connection,
            None => match open(&self.path)? {
                Some(connection) => connection,
                None => {
                    move_aside(&self.path);
                    open(&self.path)?.ok_or(rusqlite::Error::InvalidQuery)?
                }
            },
        };
        Ok(slot.insert(connection))
    }
}

/// Opens the database, making it if it is not there; `None` if it is of another format.
fn open(path: &Path) -> rusqlite::Result<Option<Connection>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        // The mutex around the connection is enough.
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_PATIENCE)?;
    connection.set_prepared_statement_cache_capacity(CACHED_STATEMENTS);
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    match version(&connection)? {
        SCHEMA_VERSION => Ok(Some(connection)),
        0 => {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            // Another process may have been faster.
            if version(&transaction)? == 0 {
                transaction.execute_batch(SCHEMA)?;
                transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
            }
            transaction.commit()?;
            Ok(Some(connection))
        }
        _ => Ok(None),
    }
}

fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

fn is_damaged(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

/// Renames the database and its companions; somebody may want to look at them.
fn move_aside(path: &Path) {
    let token = format!("{:08x}", random() as u32);
    for suffix in ["", "-wal", "-shm"] {
        let mut from = path.as_os_str().to_owned();
        from.push(suffix);
        let mut to = path.as_os_str().to_owned();
        to.push(format!(".damaged-{token}{suffix}"));
        // The companions need not exist, and another process may have been faster.
        let _ = fs_err::rename(PathBuf::from(from), PathBuf::from(to));
    }
}
