//! Where this machine has control groups, and which of them is ours.

use std::io;
use std::path::{Path, PathBuf};

use super::settings::{Controller, Version};
use crate::RuntimeError;

/// The mounts of control groups that we can see, and our own place in each.
#[derive(Debug, Default)]
pub(super) struct Hierarchies {
    mounts: Vec<Mounted>,
}

#[derive(Debug, PartialEq, Eq)]
struct Mounted {
    version: Version,
    /// Of version one: the controllers it is for.
    controllers: Vec<String>,
    point: PathBuf,
    /// The directory of our own group.
    own: PathBuf,
}

/// Where a group for some controllers is to be made.
#[derive(Debug)]
pub(super) struct Parent {
    pub(super) path: PathBuf,
    pub(super) version: Version,
    pub(super) controllers: Vec<Controller>,
}

impl Hierarchies {
    /// Those of this process.
    pub(super) fn read() -> Result<Hierarchies, RuntimeError> {
        let failed =
            |source| RuntimeError::Control { attempt: "find the control groups for", source };
        let mounts = fs_err::read_to_string("/proc/self/mountinfo").map_err(failed)?;
        let groups = fs_err::read_to_string("/proc/self/cgroup").map_err(failed)?;
        Ok(Hierarchies::parse(&mounts, &groups))
    }

    fn parse(mountinfo: &str, groups: &str) -> Hierarchies {
        let mounts = mountinfo.lines().filter_map(|line| Mounted::parse(line, groups));
        Hierarchies { mounts: mounts.collect() }
    }

    /// The directories below which groups for `wanted` are made, each once.
    pub(super) fn parents(&self, wanted: &[Controller]) -> Result<Vec<Parent>, RuntimeError> {
        let mut parents: Vec<Parent> = Vec::new();
        let mut unified = Vec::new();
        for &controller in wanted {
            let one = self.mounts.iter().find(|mounted| {
                mounted.controllers.iter().any(|name| name.as_str() == controller.name())
            });
            match one {
                None => unified.push(controller),
                Some(mounted) => match parents.iter_mut().find(|p| p.path == mounted.own) {
                    Some(parent) => parent.controllers.push(controller),
                    None => parents.push(Parent {
                        path: mounted.own.clone(),
                        version: Version::One,
                        controllers: vec![controller],
                    }),
                },
            }
        }
        if let Some(first) = unified.first() {
            let mounted = self.mounts.iter().find(|mounted| mounted.version == Version::Two);
            let mounted = mounted.ok_or_else(|| first.absent())?;
            parents.push(mounted.parent(unified)?);
        }
        Ok(parents)
    }

    /// Everywhere that a group for a container of ours can have been made.
    pub(super) fn places(&self) -> Vec<PathBuf> {
        let mut places = Vec::new();
        for mounted in &self.mounts {
            match mounted.version {
                Version::One => {
                    let all =
                        [Controller::Memory, Controller::Cpu, Controller::Cpuset, Controller::Pids];
                    let is_used = |name: &String| all.iter().any(|c| c.name() == name.as_str());
                    if mounted.controllers.iter().any(is_used) {
                        places.push(mounted.own.clone());
                    }
                }
                Version::Two => places.extend(
                    mounted
                        .own
                        .ancestors()
                        .take_while(|path| path.starts_with(&mounted.point))
                        .map(Path::to_owned),
                ),
            }
        }
        places
    }

    /// Our own groups that count memory, innermost first, with the kind they are of.
    pub(super) fn memory_groups(&self) -> Vec<(Version, PathBuf)> {
        let own = self.mounts.iter().filter(|mounted| {
            mounted.version == Version::Two || mounted.controllers.iter().any(|c| c == "memory")
        });
        let above = |mounted: &Mounted| {
            let (version, point) = (mounted.version, mounted.point.clone());
            let above = mounted.own.ancestors().map(Path::to_owned).collect::<Vec<_>>();
            above
                .into_iter()
                .take_while(move |path| path.starts_with(&point))
                .map(move |path| (version, path))
        };
        own.flat_map(above).collect()
    }
}

impl Mounted {
    /// From a line of mountinfo: `id parent dev root point options … - type source options`.
    fn parse(line: &str, groups: &str) -> Option<Mounted> {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, PathBuf::from(unescaped(fields.next()?)));
        let mut kind = kind.split(' ');
        let (version, options) = match kind.next()? {
            "cgroup" => (Version::One, kind.nth(1)?),
            "cgroup2" => (Version::Two, ""),
            _ => return None,
        };
        // Of a group line: `number:controllers:path`; the second version is number 0 without any.
        let own = groups.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (number, names, path) = (parts.next()?, parts.next()?, parts.next()?);
            let is_ours = match version {
                Version::One => {
                    number != "0" && names.split(',').all(|n| options.split(',').any(|o| o == n))
                }
                Version::Two => number == "0" && names.is_empty(),
            };
            is_ours.then_some(path)
        })?;
        // A mount may show a part of the hierarchy only; ours must be in that part.
        let below = Path::new(own).strip_prefix(unescaped(root)).ok()?;
        let controllers = options.split(',').map(str::to_owned).filter(|name| !name.is_empty());
        Some(Mounted {
            version,
            controllers: controllers.collect(),
            own: if below.as_os_str().is_empty() { point.clone() } else { point.join(below) },
            point,
        })
    }

    /// The nearest group from ours upwards that gives these controllers to its children.
    fn parent(&self, controllers: Vec<Controller>) -> Result<Parent, RuntimeError> {
        let mut failure = None;
        for path in self.own.ancestors().take_while(|path| path.starts_with(&self.point)) {
            match hands_on(path, &controllers) {
                Ok(None) => {
                    return Ok(Parent {
                        path: path.to_owned(),
                        version: Version::Two,
                        controllers,
                    });
                }
                // Where a controller is not, it is not further down either, but may be further up.
                Ok(Some(missing)) => {
                    failure.get_or_insert(missing.absent());
                }
                Err(error) => failure = Some(controllers[0].denied(&error)),
            }
        }
        Err(failure.unwrap_or_else(|| controllers[0].absent()))
    }
}

/// Has a group give controllers to its children; answers with one that it does not have.
fn hands_on(path: &Path, controllers: &[Controller]) -> io::Result<Option<Controller>> {
    let words = |file: &str| fs_err::read_to_string(path.join(file));
    let has = |text: &str, c: &Controller| text.split_whitespace().any(|name| name == c.name());
    let available = words("cgroup.controllers")?;
    if let Some(missing) = controllers.iter().find(|c| !has(&available, c)) {
        return Ok(Some(*missing));
    }
    let given = words("cgroup.subtree_control")?;
    for controller in controllers.iter().filter(|c| !has(&given, c)) {
        // Busy if it has processes of its own: one further up does it then.
        fs_err::write(path.join("cgroup.subtree_control"), format!("+{}", controller.name()))?;
    }
    Ok(None)
}

/// Mountinfo writes blanks and the like as `\040`.
fn unescaped(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .into_iter()
        .fold(text.to_owned(), |text, (escape, plain)| text.replace(escape, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:7 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn version_one_has_a_directory_for_each_hierarchy() {
        let groups = "4:memory:/jobs/7\n1:cpu,cpuacct:/\n9:name=systemd:/x\n0::/\n";
        let hierarchies = Hierarchies::parse(HYBRID, groups);
        let parents = hierarchies.parents(&[Controller::Memory, Controller::Cpu]).unwrap();
        let paths: Vec<_> = parents.iter().map(|parent| parent.path.to_str().unwrap()).collect();
        assert_eq!(paths, ["/sys/fs/cgroup/memory/jobs/7", "/sys/fs/cgroup/cpu,cpuacct"]);
        let places = hierarchies.places();
        assert!(paths.iter().all(|path| places.contains(&path.into())), "{places:?}");
        assert!(!places.contains(&"/sys/fs/cgroup/systemd/x".into()), "{places:?}");
        let error = hierarchies.parents(&[Controller::Pids]).unwrap_err().to_string();
        assert!(error.contains("number of processes") && error.contains("`pids`"), "{error}");
    }

    #[test]
    fn a_part_of_a_hierarchy_counts_only_if_we_are_in_it() {
        let mount = "35 31 0:32 /docker/x /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory";
        let own = |groups| Mounted::parse(mount, groups).map(|mounted| mounted.own);
        assert_eq!(own("4:memory:/docker/x/y"), Some("/sys/fs/cgroup/memory/y".into()));
        assert_eq!(own("4:memory:/docker/x"), Some("/sys/fs/cgroup/memory".into()));
        assert_eq!(own("4:memory:/elsewhere"), None);
    }

    #[test]
    fn in_version_two_a_group_is_made_below_the_nearest_that_hands_on() {
        let root = tempfile::tempdir().unwrap();
        let own = root.path().join("user/app/own");
        fs_err::create_dir_all(&own).unwrap();
        for (path, controllers, given) in [
            ("", "cpu memory pids", "cpu memory pids"),
            ("user", "cpu memory pids", "memory pids"),
            ("user/app", "memory pids", "pids"),
            ("user/app/own", "pids", ""),
        ] {
            let path = root.path().join(path);
            fs_err::write(path.join("cgroup.controllers"), controllers).unwrap();
            fs_err::write(path.join("cgroup.subtree_control"), given).unwrap();
        }
        let mount = format!("41 31 0:38 / {} rw - cgroup2 cgroup2 rw", root.path().display());
        let hierarchies = Hierarchies::parse(&mount, "0::/user/app/own\n");
        let parent = |wanted: &[Controller]| {
            let parents = hierarchies.parents(wanted).unwrap();
            parents[0].path.strip_prefix(root.path()).unwrap().to_str().unwrap().to_owned()
        };
        assert_eq!(parent(&[Controller::Memory, Controller::Pids]), "user/app");
        let given = fs_err::read_to_string(root.path().join("user/app/cgroup.subtree_control"));
        assert_eq!(given.unwrap(), "+memory");
        assert_eq!(parent(&[Controller::Cpu]), "user");
        assert_eq!(hierarchies.places().len(), 4);
        let error = hierarchies.parents(&[Controller::Cpuset]).unwrap_err().to_string();
        assert!(error.contains("no cgroup controller `cpuset`"), "{error}");
    }
}
