//! Rows of trees that were left far away: [`crate::bundle::far`].

use std::collections::{BTreeMap, HashMap, HashSet};

use rusqlite::{OptionalExtension, params};

use super::{Index, from_json, to_json};
use crate::bundle::far::FarLayer;
use crate::error::StoreError;
use crate::snapshot::SnapshotId;

/// Among the values that are kept: layers, by the names of the trees that end with them.
const SPACE: &str = "far";

/// Enough for some hundred projects. When there are more, all are forgotten.
const MAX_LAYERS: i64 = 20_000;

impl Index {
    /// Whether there is any.
    pub(crate) fn has_far_layers(&self) -> Result<bool, StoreError> {
        self.database.read(|connection| {
            connection
                .prepare_cached("SELECT 1 FROM kept WHERE space = ?1 LIMIT 1")?
                .exists([SPACE])
        })
    }

    /// The highest layer of a tree.
    pub(crate) fn far_layer(&self, tree: &SnapshotId) -> Result<Option<FarLayer>, StoreError> {
        let key = tree.to_string();
        let found: Option<Vec<u8>> = self.database.read(|connection| {
            connection
                .prepare_cached("SELECT value FROM kept WHERE space = ?1 AND key = ?2")?
                .query_row([SPACE, &key], |row| row.get(0))
                .optional()
        })?;
        found.map(|bytes| from_json("far layer", &bytes)).transpose()
    }

    /// Remembers layers, in one transaction.
    pub(crate) fn put_far_layers(
        &self,
        layers: &BTreeMap<SnapshotId, FarLayer>,
    ) -> Result<(), StoreError> {
        if layers.is_empty() {
            return Ok(());
        }
        let mut rows = Vec::with_capacity(layers.len());
        for (tree, layer) in layers {
            rows.push((tree.to_string(), to_json(layer)?.into_bytes()));
        }
        self.database.write(|transaction| {
            let count: i64 = transaction
                .prepare_cached("SELECT count(*) FROM kept WHERE space = ?1")?
                .query_row([SPACE], |row| row.get(0))?;
            if count + i64::try_from(rows.len()).unwrap_or(i64::MAX / 2) > MAX_LAYERS {
                transaction
                    .prepare_cached("DELETE FROM kept WHERE space = ?1")?
                    .execute([SPACE])?;
            }
            let mut insert = transaction.prepare_cached(
                "INSERT OR REPLACE INTO kept (space, key, value) VALUES (?1, ?2, ?3)",
            )?;
            for (tree, layer) in &rows {
                insert.execute(params![SPACE, tree, layer])?;
            }
            Ok(())
        })
    }

    /// All of them that can be read.
    pub(crate) fn far_layers(&self) -> Result<HashMap<SnapshotId, FarLayer>, StoreError> {
        let mut layers = HashMap::new();
        for (tree, bytes) in self.values(SPACE)? {
            if let (Ok(tree), Ok(layer)) = (tree.parse(), from_json("far layer", &bytes)) {
                layers.insert(tree, layer);
            }
        }
        Ok(layers)
    }

    /// Forgets layers, in one transaction.
    pub(crate) fn remove_far_layers(&self, trees: &HashSet<SnapshotId>) -> Result<(), StoreError> {
        if trees.is_empty() {
            return Ok(());
        }
        self.database.write(|transaction| {
            let mut delete =
                transaction.prepare_cached("DELETE FROM kept WHERE space = ?1 AND key = ?2")?;
            for tree in trees {
                delete.execute([SPACE, &tree.to_string()])?;
            }
            Ok(())
        })
    }
}
