//! The trees that inputs stand for.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use solver::InputValue;
use solver::llb::{InlineFile, LocalContext, Op, SourceOp};

use super::{LocalWorker, lock};
use crate::ExecutorError;
use crate::context::is_unpacked;
use crate::copy::view;
use crate::source_tree::SourceTree;
use crate::stat_cache::StatCache;

impl LocalWorker {
    /// The files of an input.
    pub(super) fn tree(&self, value: &InputValue) -> Result<SourceTree, ExecutorError> {
        match value {
            InputValue::Output(output) => {
                let snapshot = self.snapshot(output)?;
                let root = view(snapshot.as_ref(), self.owners)
                    .map_err(ExecutorError::file("open", self.config.store.root()))?;
                Ok(SourceTree::stage(Arc::new(root), "the source stage".to_owned()))
            }
            InputValue::Direct(vertex) => match &vertex.op {
                Op::Source(SourceOp::Context(context)) => self.context_tree(context),
                Op::Source(SourceOp::Inline { files }) => self.inline_tree(files),
                Op::Source(SourceOp::Scratch) => {
                    self.tree(&InputValue::Output(solver::Output { snapshot: None, content: None }))
                }
                _ => Err(ExecutorError::Process {
                    reason: format!("`{}` has no files yet", vertex.meta.name),
                }),
            },
        }
    }

    /// Where a context lies.
    pub(super) fn context_root(&self, context: &LocalContext) -> Result<PathBuf, ExecutorError> {
        let Some(root) = self.config.contexts.get(&context.name) else {
            return Err(ExecutorError::NoContext { name: context.name.clone() });
        };
        fs_err::canonicalize(root).map_err(ExecutorError::file("find the build context", root))
    }

    fn context_tree(&self, context: &LocalContext) -> Result<SourceTree, ExecutorError> {
        let root = self.context_root(context)?;
        let name = match context.name.as_str() {
            "context" => "the build context".to_owned(),
            name => format!("the build context `{name}`"),
        };
        // What was unpacked for this build goes away with it: nobody would ask again.
        let passing = is_unpacked(&root, &self.config.store);
        let cache = (!passing).then(|| self.stat_cache(&root));
        SourceTree::context(&root, name, &context.excludes, cache)
    }

    /// What is remembered of the context at `root`.
    fn stat_cache(&self, root: &Path) -> Arc<StatCache> {
        let mut caches = lock(&self.stat_caches);
        let dir = self.config.store.contexts_dir();
        let open = || Arc::new(StatCache::open(&dir, root));
        caches.entry(root.to_owned()).or_insert_with(open).clone()
    }

    /// Files that stand in the Dockerfile, in a directory that lives as long as the tree.
    fn inline_tree(&self, files: &[InlineFile]) -> Result<SourceTree, ExecutorError> {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::Builder::new()
            .prefix("strake-inline-")
            .tempdir()
            .map_err(ExecutorError::file("make a directory for", "the files of the Dockerfile"))?;
        for file in files {
            let parts = crate::pattern::components(&file.path);
            let path = dir.path().join(parts.join("/"));
            let write = || -> std::io::Result<()> {
                if let Some(parent) = path.parent() {
                    fs_err::create_dir_all(parent)?;
                }
                fs_err::write(&path, &file.content)?;
                fs_err::set_permissions(&path, std::fs::Permissions::from_mode(file.mode))
            };
            write().map_err(ExecutorError::file("write", &path))?;
        }
        let mut tree =
            SourceTree::context(dir.path(), "the Dockerfile's files".to_owned(), &[], None)?;
        tree.guard = Some(Arc::new(dir));
        Ok(tree)
    }
}
