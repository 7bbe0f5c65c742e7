//! What of a command line is nobody's business.

use parser::names_a_secret;

/// `text` without the passwords of the addresses in it: `https://user:***@host/`.
pub(crate) fn without_password(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        clean.push_str(before);
        let end = after.find(|c: char| c == '/' || c.is_whitespace()).unwrap_or(after.len());
        match after[..end].rfind('@') {
            Some(host) => {
                let user = &after[..host];
                match user.split_once(':') {
                    Some((user, _)) => clean.push_str(&format!("{user}:***")),
                    // A token alone stands where the user's name stands.
                    None if user == "git" => clean.push_str(user),
                    None => clean.push_str("***"),
                }
                rest = &after[host..];
            }
            None => rest = after,
        }
    }
    clean.push_str(rest);
    clean
}

/// `NAME=VALUE` without a value that the name says is secret.
pub(crate) fn without_secret_value(argument: &str) -> String {
    let bare = argument.strip_prefix("--build-arg=");
    let prefix = if bare.is_some() { "--build-arg=" } else { "" };
    match bare.unwrap_or(argument).split_once('=') {
        Some((name, _)) if names_a_secret(name) => format!("{prefix}{name}=***"),
        _ => argument.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lose_their_passwords() {
        for (text, expected) in [
            ("https://me:pass@host/x.git#main", "https://me:***@host/x.git#main"),
            ("https://ghp_token@host/x", "https://***@host/x"),
            ("ssh://git@host/x", "ssh://git@host/x"),
            ("a=https://a:b@c d=https://e:f@g", "a=https://a:***@c d=https://e:***@g"),
            ("https://host/a@b", "https://host/a@b"),
            ("./dir", "./dir"),
        ] {
            assert_eq!(without_password(text), expected);
        }
    }

    #[test]
    fn arguments_lose_what_their_names_call_secret() {
        for (argument, expected) in [
            ("NPM_TOKEN=abc", "NPM_TOKEN=***"),
            ("--build-arg=DB_PASSWORD=abc", "--build-arg=DB_PASSWORD=***"),
            ("VERSION=1", "VERSION=1"),
            ("--target=x", "--target=x"),
        ] {
            assert_eq!(without_secret_value(argument), expected);
        }
    }
}
