//! The solver's memory: cache keys, what they were made of, what came out.
//!
//! One SQLite database in WAL mode, opened when first asked and shared by any number of processes.
//! Losing it costs rebuilding and nothing else (blobs and snapshots are the truth), so it is never
//! waited for: `synchronous=NORMAL` survives killed processes, and may forget the last records in a
//! power cut. A database that SQLite calls damaged is moved aside, and a new one begun.
//!
//! | table | row |
//! |---|---|
//! | `records` | key → operation, name, outputs, ingredients (JSON, zstd), created, stored |
//! | `latest` | scope, name → key: what a step was when its project was last built |
//! | `layer_blobs` | DiffId, kind → descriptor |
//! | `kept` | space, key → bytes of the caller; among them what an operation took, by its digest, and layers of trees that are far away |

mod database;
mod far;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{OptionalExtension, Row, params};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::StoreError;
use crate::hash::Fingerprint;
use crate::oci::{Descriptor, DiffId};
use crate::snapshot::SnapshotId;
use database::Database;

/// What a step's result is found by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CacheKey(pub Fingerprint);

impl std::fmt::Display for CacheKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// One result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// What it is found by.
    pub key: CacheKey,
    /// The operation alone, whatever its inputs.
    pub op: Fingerprint,
    /// The step as people see it.
    pub name: String,
    /// In the operation's order.
    pub outputs: Vec<Output>,
    /// RFC 3339.
    pub created: String,
    /// The named parts that the key was made of.
    pub ingredients: Vec<Ingredient>,
}

/// One file tree that came out of a step.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Output {
    /// `None`: an empty tree.
    pub snapshot: Option<SnapshotId>,
    /// The content of the whole chain, modification times aside, where it is known.
    pub content: Option<Fingerprint>,
}

/// One named part of a key, e.g. `env.PATH` or `file:/src/a.c#mode`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ingredient {
    /// Its name.
    pub part: String,
    /// Its value, or the fingerprint of a long one.
    pub value: String,
}

/// The index of a store. Clones are the same.
#[derive(Clone, Debug)]
pub struct Index {
    database: Arc<Database>,
}

/// Ingredients are many and alike; they shrink tenfold at the lowest level.
const INGREDIENTS_ZSTD_LEVEL: i32 = 1;

/// Among the values that are kept: what operations took, by the hex digits of their digests.
const USAGE_SPACE: &str = "usage";

const RECORD_COLUMNS: &str = "key, op, name, outputs, created";

impl Index {
    pub(crate) fn new(path: PathBuf) -> Index {
        Index { database: Arc::new(Database::new(path)) }
    }

    /// The record under `key`.
    pub fn lookup(&self, key: &CacheKey) -> Result<Option<Record>, StoreError> {
        let found = self.database.read(|connection| {
            connection
                .prepare_cached(&format!(
                    "SELECT {RECORD_COLUMNS}, ingredients FROM records WHERE key = ?1"
                ))?
                .query_row([key.0.as_bytes()], |row| Ok((row_record(row)?, row.get(5)?)))
                .optional()
        })?;
        let Some((row, ingredients)) = found else { return Ok(None) };
        let ingredients: Vec<u8> = ingredients;
        let mut record = row.into_record()?;
        record.ingredients = unpack_ingredients(&ingredients)?;
        Ok(Some(record))
    }

    /// As [`Index::lookup`], without the ingredients, of which there can be thousands.
    pub fn lookup_outputs(&self, key: &CacheKey) -> Result<Option<Record>, StoreError> {
        let found = self.database.read(|connection| {
            connection
                .prepare_cached(&format!("SELECT {RECORD_COLUMNS} FROM records WHERE key = ?1"))?
                .query_row([key.0.as_bytes()], row_record)
                .optional()
        })?;
        found.map(RecordRow::into_record).transpose()
    }

    /// Stores one record, replacing an older one of the same key.
    pub fn insert(&self, record: &Record) -> Result<(), StoreError> {
        self.insert_many(std::slice::from_ref(record))
    }

    /// Stores records in one transaction.
    pub fn insert_many(&self, records: &[Record]) -> Result<(), StoreError> {
        let mut rows = Vec::with_capacity(records.len());
        // One for all: making it costs more than what it does for a record.
        let mut compressor = zstd::bulk::Compressor::new(INGREDIENTS_ZSTD_LEVEL)
            .map_err(|error| unreadable("list of ingredients", serde_json::Error::io(error)))?;
        for record in records {
            let ingredients = pack_ingredients(&mut compressor, &record.ingredients)?;
            rows.push((record, to_json(&record.outputs)?, ingredients));
        }
        let now = now();
        self.database.write(|transaction| {
            let mut insert = transaction.prepare_cached(
                "INSERT OR REPLACE INTO records (key, op, name, outputs, ingredients, created, used)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?;
            for (record, outputs, ingredients) in &rows {
                insert.execute(params![
                    record.key.0.as_bytes(),
                    record.op.as_bytes(),
                    record.name,
                    outputs,
                    ingredients,
                    record.created,
                    now
                ])?;
            }
            Ok(())
        })
    }

    /// Whether any record is of this operation.
    pub fn has_op(&self, op: &Fingerprint) -> Result<bool, StoreError> {
        self.database.read(|connection| {
            connection
                .prepare_cached("SELECT 1 FROM records WHERE op = ?1 LIMIT 1")?
                .exists([op.as_bytes()])
        })
    }

    /// The record that `name` had when `scope` (a project, a tag, …) was last built; `None` also if
    /// it was removed since.
    pub fn latest_for_name(&self, scope: &str, name: &str) -> Result<Option<Record>, StoreError> {
        match self.latest_key_for_name(scope, name)? {
            Some(key) => self.lookup(&key),
            None => Ok(None),
        }
    }

    /// The key of [`Index::latest_for_name`], of which there need not be a record any more.
    pub fn latest_key_for_name(
        &self,
        scope: &str,
        name: &str,
    ) -> Result<Option<CacheKey>, StoreError> {
        let key: Option<Vec<u8>> = self.database.read(|connection| {
            connection
                .prepare_cached("SELECT key FROM latest WHERE scope = ?1 AND name = ?2")?
                .query_row([scope, name], |row| row.get(0))
                .optional()
        })?;
        let key = key.as_deref().and_then(|key| <[u8; 32]>::try_from(key).ok());
        Ok(key.map(|key| CacheKey(Fingerprint::from_bytes(key))))
    }

    /// Remembers which record each step of `scope` had, by name, in one transaction.
    pub fn set_latest(&self, scope: &str, steps: &[(String, CacheKey)]) -> Result<(), StoreError> {
        self.database.write(|transaction| {
            let mut insert = transaction.prepare_cached(
                "INSERT OR REPLACE INTO latest (scope, name, key) VALUES (?1, ?2, ?3)",
            )?;
            for (name, key) in steps {
                insert.execute(params![scope, name, key.0.as_bytes()])?;
            }
            Ok(())
        })
    }

    /// The blob that a layer became in one form (`gzip-6`, `zstd-3`, `tar`, …). Ask the blobs
    /// whether it is still there.
    pub fn layer_blob(&self, diff: &DiffId, kind: &str) -> Result<Option<Descriptor>, StoreError> {
        let text: Option<String> = self.database.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT descriptor FROM layer_blobs WHERE diff_id = ?1 AND kind = ?2",
                )?
                .query_row(params![diff.0.as_bytes(), kind], |row| row.get(0))
                .optional()
        })?;
        text.map(|text| from_json("layer blob", text.as_bytes())).transpose()
    }

    /// Every form that a layer is known in, as (kind, blob), in order of the kinds.
    pub fn layer_blobs(&self, diff: &DiffId) -> Result<Vec<(String, Descriptor)>, StoreError> {
        let rows: Vec<(String, String)> = self.database.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT kind, descriptor FROM layer_blobs WHERE diff_id = ?1 ORDER BY kind",
                )?
                .query_map([diff.0.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })?;
        rows.into_iter()
            .map(|(kind, text)| Ok((kind, from_json("layer blob", text.as_bytes())?)))
            .collect()
    }

    /// Remembers the blob that a layer became.
    pub fn put_layer_blob(
        &self,
        diff: &DiffId,
        kind: &str,
        blob: &Descriptor,
    ) -> Result<(), StoreError> {
        let text = to_json(blob)?;
        self.database.write(|transaction| {
            transaction
                .prepare_cached(
                    "INSERT OR REPLACE INTO layer_blobs (diff_id, kind, descriptor)
                     VALUES (?1, ?2, ?3)",
                )?
                .execute(params![diff.0.as_bytes(), kind, text])?;
            Ok(())
        })
    }

    /// A remembered value (build history and the like).
    pub fn value(&self, space: &str, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.database.read(|connection| {
            connection
                .prepare_cached("SELECT value FROM kept WHERE space = ?1 AND key = ?2")?
                .query_row([space, key], |row| row.get(0))
                .optional()
        })
    }

    /// Remembers a value.
    pub fn put_value(&self, space: &str, key: &str, value: &[u8]) -> Result<(), StoreError> {
        self.database.write(|transaction| {
            transaction
                .prepare_cached(
                    "INSERT OR REPLACE INTO kept (space, key, value) VALUES (?1, ?2, ?3)",
                )?
                .execute(params![space, key, value])?;
            Ok(())
        })
    }

    /// Forgets a value.
    pub fn remove_value(&self, space: &str, key: &str) -> Result<(), StoreError> {
        self.database.write(|transaction| {
            transaction
                .prepare_cached("DELETE FROM kept WHERE space = ?1 AND key = ?2")?
                .execute([space, key])?;
            Ok(())
        })
    }

    /// What an operation took when it was last executed, as [`Index::put_usage`] was given it.
    pub fn usage(&self, op: &Fingerprint) -> Result<Option<Vec<u8>>, StoreError> {
        self.value(USAGE_SPACE, &op.to_string())
    }

    /// Remembers what operations took, in one transaction. It goes with the last record of its
    /// operation.
    pub fn put_usage(&self, taken: &[(Fingerprint, Vec<u8>)]) -> Result<(), StoreError> {
        self.database.write(|transaction| {
            let mut insert = transaction.prepare_cached(
                "INSERT OR REPLACE INTO kept (space, key, value) VALUES (?1, ?2, ?3)",
            )?;
            for (op, value) in taken {
                insert.execute(params![USAGE_SPACE, op.to_string(), value])?;
            }
            Ok(())
        })
    }

    /// Every remembered value of a space, in order of the keys.
    pub fn values(&self, space: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.database.read(|connection| {
            connection
                .prepare_cached("SELECT key, value FROM kept WHERE space = ?1 ORDER BY key")?
                .query_map([space], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })
    }

    /// Every record, without its ingredients, least recently used first.
    pub fn records(&self) -> Result<Vec<Record>, StoreError> {
        let rows: Vec<RecordRow> = self.database.read(|connection| {
            connection
                .prepare_cached(&format!(
                    "SELECT {RECORD_COLUMNS} FROM records ORDER BY used, key"
                ))?
                .query_map([], row_record)?
                .collect()
        })?;
        rows.into_iter().map(RecordRow::into_record).collect()
    }

    /// When a record was last stored, seconds since 1970. Uses are noted on its trees.
    pub fn last_used(&self, key: &CacheKey) -> Result<Option<i64>, StoreError> {
        self.database.read(|connection| {
            connection
                .prepare_cached("SELECT used FROM records WHERE key = ?1")?
                .query_row([key.0.as_bytes()], |row| row.get(0))
                .optional()
        })
    }

    /// Brings what was written into the database's own file, if nobody is reading just now. Waits
    /// for the disk.
    pub fn tidy(&self) -> Result<(), StoreError> {
        self.database.checkpoint()
    }

    /// Forgets records, in one transaction.
    pub fn remove(&self, keys: &[CacheKey]) -> Result<(), StoreError> {
        if keys.is_empty() {
            return Ok(());
        }
        self.database.write(|transaction| {
            let mut delete = transaction.prepare_cached("DELETE FROM records WHERE key = ?1")?;
            for key in keys {
                delete.execute([key.0.as_bytes()])?;
            }
            transaction
                .prepare_cached(
                    "DELETE FROM kept WHERE space = ?1
                     AND key NOT IN (SELECT lower(hex(op)) FROM records)",
                )?
                .execute([USAGE_SPACE])?;
            Ok(())
        })
    }
}

/// A row of `records` before its JSON is read.
struct RecordRow {
    key: [u8; 32],
    op: [u8; 32],
    name: String,
    outputs: String,
    created: String,
}

fn row_record(row: &Row<'_>) -> rusqlite::Result<RecordRow> {
    Ok(RecordRow {
        key: row.get(0)?,
        op: row.get(1)?,
        name: row.get(2)?,
        outputs: row.get(3)?,
        created: row.get(4)?,
    })
}

impl RecordRow {
    fn into_record(self) -> Result<Record, StoreError> {
        Ok(Record {
            key: CacheKey(Fingerprint::from_bytes(self.key)),
            op: Fingerprint::from_bytes(self.op),
            name: self.name,
            outputs: from_json("list of outputs", self.outputs.as_bytes())?,
            created: self.created,
            ingredients: Vec::new(),
        })
    }
}

fn pack_ingredients(
    compressor: &mut zstd::bulk::Compressor<'_>,
    ingredients: &[Ingredient],
) -> Result<Vec<u8>, StoreError> {
    let json = to_json(&ingredients)?;
    compressor
        .compress(json.as_bytes())
        .map_err(|error| unreadable("list of ingredients", serde_json::Error::io(error)))
}

fn unpack_ingredients(bytes: &[u8]) -> Result<Vec<Ingredient>, StoreError> {
    let json = zstd::decode_all(bytes)
        .map_err(|error| unreadable("list of ingredients", serde_json::Error::io(error)))?;
    from_json("list of ingredients", &json)
}

fn to_json<T: Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|source| unreadable("value", source))
}

fn from_json<T: DeserializeOwned>(what: &'static str, json: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(json).map_err(|source| unreadable(what, source))
}

fn unreadable(what: &'static str, source: serde_json::Error) -> StoreError {
    StoreError::IndexRow { what, source }
}

fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}
