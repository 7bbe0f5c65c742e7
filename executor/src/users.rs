//! The user and group files of a root file system.

use std::ffi::OsString;
use std::io::Read;
use std::sync::Arc;

use solver::llb::{Owner, UserSpec};

use crate::ExecutorError;
use crate::error::near;
use crate::merged::{Dir, Kind, LookupError, resolve};

/// The highest id a process may have, as in runc.
pub(crate) const MAX_ID: u32 = i32::MAX as u32;

/// More than this of a user file is not read.
const MAX_FILE: u64 = 4 << 20;

/// `/etc/passwd` and `/etc/group`.
#[derive(Debug, Default)]
pub(crate) struct Users {
    accounts: Vec<Account>,
    groups: Vec<Group>,
}

#[derive(Debug)]
struct Account {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

#[derive(Debug)]
struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

/// Whom a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProcessUser {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    pub home: String,
}

impl Users {
    /// Reads the files of the tree at `root`; a file that is not there has no entries.
    pub(crate) fn read(root: &Arc<Dir>) -> Result<Self, ExecutorError> {
        Ok(Self::parse(&read(root, "passwd")?, &read(root, "group")?))
    }

    /// Entries that do not follow the format, or whose ids are out of range, are not there.
    fn parse(passwd: &str, group: &str) -> Self {
        let id = |text: &str| text.parse().ok().filter(|&id: &u32| id <= MAX_ID);
        let account = |line: &str| {
            let mut fields = line.trim_end().split(':');
            let name = fields.next().filter(|name| !name.is_empty())?.to_owned();
            let (uid, gid) = (id(fields.nth(1)?)?, id(fields.next()?)?);
            let home = fields.nth(1).unwrap_or_default().to_owned();
            Some(Account { name, uid, gid, home })
        };
        let group_of = |line: &str| {
            let mut fields = line.trim_end().split(':');
            let name = fields.next().filter(|name| !name.is_empty())?.to_owned();
            let gid = id(fields.nth(1)?)?;
            let members = fields.next().unwrap_or_default().split(',');
            let members = members.filter(|m| !m.is_empty()).map(str::to_owned).collect();
            Some(Group { name, gid, members })
        };
        Self {
            accounts: passwd.lines().filter_map(account).collect(),
            groups: group.lines().filter_map(group_of).collect(),
        }
    }

    /// Whom `spec`, as USER has it (`user`, `user:group`, by name or number), means.
    ///
    /// Without a group it is the account's own, with the groups that list the account; a number
    /// that has no account has group 0. With a group there are no others.
    pub(crate) fn process_user(&self, spec: &str) -> Result<ProcessUser, ExecutorError> {
        let (user, group) = match spec.split_once(':') {
            Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
            None => (spec, None),
        };
        let number = numeric(user)?;
        let account = if user.is_empty() {
            self.accounts.iter().find(|account| account.uid == 0)
        } else {
            let by_name = self.accounts.iter().find(|account| account.name == user);
            by_name.or_else(|| self.accounts.iter().find(|a| Some(a.uid) == number))
        };
        let uid = match (account, number) {
            (Some(account), _) => account.uid,
            (None, Some(number)) => number,
            (None, None) if user.is_empty() => 0,
            (None, None) => return Err(self.unknown_user(user)),
        };
        let gid = match group {
            Some(group) => match self.groups.iter().find(|g| g.name == group) {
                Some(found) => found.gid,
                None => numeric(group)?.ok_or_else(|| self.unknown_group(group))?,
            },
            None => account.map_or(0, |account| account.gid),
        };
        let named = account.filter(|_| group.is_none() && !user.is_empty());
        // The primary group is always one of them, and the first, as `id` shows it in docker.
        let groups = named.map_or(vec![gid], |account| {
            let listed = self.groups.iter().filter(|g| g.members.contains(&account.name));
            let mut groups: Vec<u32> = listed.map(|g| g.gid).filter(|&g| g != gid).collect();
            groups.sort_unstable();
            groups.dedup();
            groups.insert(0, gid);
            groups
        });
        let home = account.map_or("", |account| &account.home);
        let home = if home.is_empty() { "/" } else { home }.to_owned();
        Ok(ProcessUser { uid, gid, groups, home })
    }

    /// The ids that `--chown` means. The group of a user by number is the same number.
    pub(crate) fn owner(&self, owner: &Owner) -> Result<(u32, u32), ExecutorError> {
        let (uid, own_group) = match &owner.user {
            UserSpec::Id(id) => (*id, *id),
            UserSpec::Name(name) => match self.accounts.iter().find(|a| a.name == *name) {
                Some(account) => (account.uid, account.gid),
                None => return Err(self.unknown_user(name)),
            },
        };
        let gid = match &owner.group {
            None => own_group,
            Some(UserSpec::Id(id)) => *id,
            Some(UserSpec::Name(name)) => match self.groups.iter().find(|g| g.name == *name) {
                Some(group) => group.gid,
                None => return Err(self.unknown_group(name)),
            },
        };
        Ok((uid, gid))
    }

    fn unknown_user(&self, name: &str) -> ExecutorError {
        let near = near(name, self.accounts.iter().map(|a| a.name.as_str()));
        ExecutorError::UnknownOwner { kind: "user", name: name.to_owned(), near }
    }

    fn unknown_group(&self, name: &str) -> ExecutorError {
        let near = near(name, self.groups.iter().map(|g| g.name.as_str()));
        ExecutorError::UnknownOwner { kind: "group", name: name.to_owned(), near }
    }
}

/// The number that `text` is; `None` for a name. Numbers out of range are errors, never ids.
fn numeric(text: &str) -> Result<Option<u32>, ExecutorError> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse() {
        Ok(id) if id <= MAX_ID && text == digits => Ok(Some(id)),
        _ => Err(ExecutorError::BadId { text: text.to_owned() }),
    }
}

fn read(root: &Arc<Dir>, name: &str) -> Result<String, ExecutorError> {
    let path = format!("/etc/{name}");
    let parts = [OsString::from("etc"), OsString::from(name)];
    let located = match resolve(root, &parts, true) {
        Ok(located) => located,
        Err(LookupError::Io { path, source }) => {
            return Err(ExecutorError::File { attempt: "look up", path, source });
        }
        Err(_) => return Ok(String::new()),
    };
    let Some((name, entry)) = located.last.as_ref().filter(|(_, e)| e.meta.kind == Kind::File)
    else {
        return Ok(String::new());
    };
    let mut bytes = Vec::new();
    located
        .parent(root)
        .open_file(name, entry)
        .and_then(|fd| std::fs::File::from(fd).take(MAX_FILE).read_to_end(&mut bytes))
        .map_err(ExecutorError::file("read", path))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
        app:x:1000:1001::/home/app:/bin/sh\n\
        42:x:7:7::/:\n\
        evil:x:4294967296:0::/:\n\
        minus:x:-1:0::/:\n\
        short:x\n";
    const GROUP: &str = "root:x:0:\nadm:x:4:root,app\nwheel:x:10:app\napp:x:1001:app\n";

    fn user(spec: &str) -> Result<(u32, u32, Vec<u32>, String), String> {
        Users::parse(PASSWD, GROUP)
            .process_user(spec)
            .map(|user| (user.uid, user.gid, user.groups, user.home))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_user_is_found_as_docker_finds_it() {
        for (spec, uid, gid, groups, home) in [
            ("", 0, 0, vec![0], "/root"),
            ("root", 0, 0, vec![0, 4], "/root"),
            ("app", 1000, 1001, vec![1001, 4, 10], "/home/app"),
            ("1000", 1000, 1001, vec![1001, 4, 10], "/home/app"),
            ("app:adm", 1000, 4, vec![4], "/home/app"),
            ("1000:5", 1000, 5, vec![5], "/home/app"),
            ("2000", 2000, 0, vec![0], "/"),
            ("2000:2000", 2000, 2000, vec![2000], "/"),
            ("app:", 1000, 1001, vec![1001, 4, 10], "/home/app"),
            (":adm", 0, 4, vec![4], "/root"),
            ("42", 7, 7, vec![7], "/"),
        ] {
            assert_eq!(user(spec), Ok((uid, gid, groups, home.to_owned())), "{spec}");
        }
    }

    #[test]
    fn an_unknown_or_impossible_user_is_an_error_and_never_root() {
        for (spec, message) in [
            ("ap", "unable to find user ap: no matching entries in passwd file"),
            ("a b", "unable to find user a b: no matching entries in passwd file"),
            ("app:whel", "unable to find group whel: no matching entries in group file"),
            ("evil", "unable to find user evil: no matching entries in passwd file"),
            ("minus", "unable to find user minus: no matching entries in passwd file"),
            ("-1", "`-1` is not a user or group id: ids are numbers from 0 to 2147483647"),
            (
                "4294967296",
                "`4294967296` is not a user or group id: ids are numbers from 0 to 2147483647",
            ),
            (
                "4294967295:0",
                "`4294967295` is not a user or group id: ids are numbers from 0 to 2147483647",
            ),
            ("app:-5", "`-5` is not a user or group id: ids are numbers from 0 to 2147483647"),
        ] {
            assert_eq!(user(spec), Err(message.to_owned()));
        }
        let error = Users::parse(PASSWD, GROUP).process_user("aap").unwrap_err();
        assert_eq!(error.near_names(), ["app"]);
    }

    #[test]
    fn owners_of_copies_are_names_or_numbers() {
        let users = Users::parse(PASSWD, GROUP);
        let name = |name: &str| UserSpec::Name(name.to_owned());
        for (user, group, expected) in [
            (name("app"), None, Some((1000, 1001))),
            (UserSpec::Id(5), None, Some((5, 5))),
            (name("app"), Some(name("wheel")), Some((1000, 10))),
            (UserSpec::Id(0), Some(name("wheel")), Some((0, 10))),
            (name("nobody"), None, None),
            (name("app"), Some(name("nogroup")), None),
        ] {
            let owner = Owner { user, group };
            assert_eq!(users.owner(&owner).ok(), expected, "{owner:?}");
        }
    }
}
