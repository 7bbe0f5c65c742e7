//! Files of several trees that would be written over each other.

use std::collections::BTreeMap;
use std::path::PathBuf;

use cache::snapshot::Snapshot;

use crate::ExportError;
use crate::walk::{NodeKind, walk};

/// The first path, in the order of the trees, that two of them have and that is no directory in the
/// later one; with the positions of both. One tree never clashes and is not looked at.
pub fn first_clash(
    trees: &[Option<&Snapshot>],
) -> Result<Option<(PathBuf, usize, usize)>, ExportError> {
    if trees.len() < 2 {
        return Ok(None);
    }
    let mut seen: BTreeMap<PathBuf, usize> = BTreeMap::new();
    let mut found = None;
    for (index, tree) in trees.iter().enumerate() {
        let Some(tree) = tree else { continue };
        walk(tree, &mut |node| {
            if matches!(node.kind, NodeKind::Directory) {
                return Ok(());
            }
            match seen.get(&node.path) {
                Some(first) if *first != index => {
                    found.get_or_insert((node.path, *first, index));
                }
                _ => drop(seen.insert(node.path, index)),
            }
            Ok(())
        })?;
    }
    Ok(found)
}
