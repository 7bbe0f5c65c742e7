//! Who we are, to a registry that asks: challenges, tokens, and which host may see a password.

use std::time::{Duration, Instant};

use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;

use super::error::{address, words};
use super::transport::{Host, Transport, read_body};
use super::{RemoteError, credentials::Credential};

/// The largest answer of a token service, in bytes.
const TOKEN_LIMIT: u64 = 1 << 20;
/// What a token is good for where its service does not say (distribution's token specification).
const DEFAULT_LIFE: u64 = 60;

/// What a request wants to do, in the token specification's words.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Scope(String);

impl Scope {
    pub(super) fn pull(repository: &str) -> Scope {
        Scope(format!("repository:{repository}:pull"))
    }

    pub(super) fn push(repository: &str) -> Scope {
        Scope(format!("repository:{repository}:pull,push"))
    }
}

/// An `Authorization` header that worked, or may work.
#[derive(Clone)]
pub(super) struct Token {
    pub(super) header: HeaderValue,
    expires: Option<Instant>,
}

impl Token {
    pub(super) fn is_fresh(&self) -> bool {
        self.expires.is_none_or(|expires| Instant::now() < expires)
    }

    fn new(header: &str, life: Option<u64>) -> Option<Token> {
        let mut header = HeaderValue::from_str(header).ok()?;
        header.set_sensitive(true);
        let expires = life.map(|seconds| {
            // A token that ends while it travels is of no use.
            let life = Duration::from_secs(seconds.clamp(5, 24 * 3600) * 9 / 10);
            Instant::now() + life
        });
        Some(Token { header, expires })
    }
}

#[derive(Debug, PartialEq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

impl Transport {
    /// Answers a 401: finds or buys what the registry asks for.
    ///
    /// `None` means that there is nothing (more) to show. Does not itself compare with what was
    /// refused; the caller does.
    pub(super) async fn answer(
        &self,
        host: &Host,
        repository: &str,
        scopes: &[Scope],
        headers: &HeaderMap,
    ) -> Result<Option<Token>, RemoteError> {
        let challenges = challenges(headers);
        let credential = self.config.credentials.lookup(&host.registry, repository).await?;
        let bearer = challenges.iter().find(|challenge| **challenge != Challenge::Basic);
        if let Some(Challenge::Bearer { realm, service, scope }) = bearer {
            let asked: Vec<&str> = match scopes {
                [] => scope.iter().map(String::as_str).collect(),
                scopes => scopes.iter().map(|scope| scope.0.as_str()).collect(),
            };
            return self.buy(host, realm, service.as_deref(), &asked, credential).await.map(Some);
        }
        Ok(match (challenges.first(), credential) {
            (Some(Challenge::Basic), Some(Credential::Basic { user, password })) => {
                Token::new(&basic(&user, &password), None)
            }
            _ => None,
        })
    }

    async fn buy(
        &self,
        host: &Host,
        realm: &str,
        service: Option<&str>,
        scopes: &[&str],
        credential: Option<Credential>,
    ) -> Result<Token, RemoteError> {
        let protocol =
            |reason: String| RemoteError::Protocol { address: address(&host.base), reason };
        let mut url = Url::parse(realm)
            .map_err(|_| protocol("its token service has no proper address".to_owned()))?;
        let realm_host = host_of(&url);
        if !self.may_use(&url) {
            return Err(protocol(format!("its token service at {realm_host} is not on https")));
        }
        if credential.is_some() && !self.may_see_password(host, &url) {
            return Err(RemoteError::UntrustedRealm {
                registry: host.registry.clone(),
                realm: realm_host,
            });
        }
        let client = self.client(&url)?;
        let mut form: Vec<(&str, &str)> =
            service.map(|service| ("service", service)).into_iter().collect();
        let mut request = match &credential {
            Some(Credential::Identity(token)) => {
                let scope = scopes.join(" ");
                form.extend([
                    ("scope", scope.as_str()),
                    ("grant_type", "refresh_token"),
                    ("client_id", "strake"),
                    ("refresh_token", token),
                ]);
                let body = query(&form);
                client
                    .post(url.clone())
                    .header("content-type", "application/x-www-form-urlencoded")
                    .body(body)
            }
            _ => {
                form.extend(scopes.iter().map(|scope| ("scope", *scope)));
                url.query_pairs_mut().extend_pairs(form);
                client.get(url.clone())
            }
        };
        if let Some(Credential::Basic { user, password }) = &credential {
            request = request.basic_auth(user, Some(password));
        }
        let request = request.build().map_err(|source| RemoteError::Connection {
            address: address(&url),
            source: source.without_url(),
        })?;
        let response = self.execute_patiently(&host.registry, request).await?;
        let status = response.status();
        let body = read_body(response, TOKEN_LIMIT, self.config.patience).await?;
        if !status.is_success() {
            return Err(RemoteError::Unauthorized {
                registry: host.registry.clone(),
                authenticated: credential.is_some(),
                message: words(&body),
            });
        }
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
            expires_in: Option<u64>,
        }
        let malformed = || RemoteError::Protocol {
            address: address(&url),
            reason: "the token service sent no token".to_owned(),
        };
        let answer: Answer = serde_json::from_slice(&body).map_err(|_| malformed())?;
        let token = answer.token.or(answer.access_token).filter(|token| !token.is_empty());
        let life = answer.expires_in.filter(|life| *life > 0).unwrap_or(DEFAULT_LIFE);
        token
            .and_then(|token| Token::new(&format!("Bearer {token}"), Some(life)))
            .ok_or_else(malformed)
    }

    /// Whether a token service is the registry's own: on its host, above or below it
    /// (`registry.gitlab.com` and `gitlab.com`), Docker Hub's, or one the user trusts.
    fn may_see_password(&self, host: &Host, realm: &Url) -> bool {
        let (Some(own), Some(other)) = (host.base.host_str(), realm.host_str()) else {
            return false;
        };
        let named = |domain: &str| realm.domain().is_some() && domain.contains('.');
        let below = |child: &str, parent: &str| {
            named(parent) && child.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'))
        };
        let hub = host.registry == "docker.io" && other == "auth.docker.io";
        let port = |url: &Url| url.port_or_known_default();
        // Another port of an address or of this machine belongs to another program.
        let owned = realm.domain().is_some_and(|domain| domain != "localhost");
        let same = own == other && (owned || port(&host.base) == port(realm));
        let trusted = self.config.trusted_realms.iter().any(|realm| realm == other);
        same || hub || below(own, other) || below(other, own) || trusted
    }
}

/// A host for a message: with its port where that is not the usual one.
fn host_of(url: &Url) -> String {
    match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (Some(host), None) => host.to_owned(),
        (None, _) => url.scheme().to_owned(),
    }
}

fn query(pairs: &[(&str, &str)]) -> String {
    let mut url = Url::parse("http://form/").expect("a proper address");
    url.query_pairs_mut().extend_pairs(pairs);
    url.query().unwrap_or_default().to_owned()
}

fn basic(user: &str, password: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = "Basic ".to_owned();
    for group in format!("{user}:{password}").as_bytes().chunks(3) {
        let bits = group.iter().fold(0u32, |bits, byte| (bits << 8) | u32::from(*byte))
            << (8 * (3 - group.len()));
        for position in 0..4 {
            text.push(match position <= group.len() {
                true => char::from(DIGITS[(bits >> (18 - 6 * position)) as usize & 63]),
                false => '=',
            });
        }
    }
    text
}

/// Reads every `WWW-Authenticate` header; one header may hold several challenges.
fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let values = headers.get_all(WWW_AUTHENTICATE).iter().take(8);
    values.filter_map(|value| value.to_str().ok()).flat_map(parse_challenges).collect()
}

fn parse_challenges(mut text: &str) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    loop {
        text = text.trim_start_matches([' ', ',', '\t']);
        let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
        if scheme.is_empty() || challenges.len() == 8 {
            return challenges;
        }
        text = rest;
        let mut parameters = Vec::new();
        while let Some((key, value, rest)) = parameter(text) {
            parameters.push((key, value));
            text = rest;
        }
        let take = |name: &str| {
            let found = parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.clone())
        };
        if scheme.eq_ignore_ascii_case("basic") {
            challenges.push(Challenge::Basic);
        } else if scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = take("realm")
        {
            challenges.push(Challenge::Bearer {
                realm,
                service: take("service"),
                scope: take("scope"),
            });
        }
    }
}

/// `key="value"` or `key=value` at the start, and what follows.
fn parameter(text: &str) -> Option<(&str, String, &str)> {
    let text = text.trim_start_matches([' ', ',', '\t']);
    let (key, rest) = text.split_once('=')?;
    if key.is_empty() || key.contains([' ', ',', '"']) {
        return None;
    }
    let Some(quoted) = rest.strip_prefix('"') else {
        let end = rest.find([',', ' ']).unwrap_or(rest.len());
        return Some((key, rest[..end].to_owned(), &rest[end..]));
    };
    let mut value = String::new();
    let mut symbols = quoted.char_indices();
    while let Some((position, symbol)) = symbols.next() {
        match symbol {
            '"' => return Some((key, value, &quoted[position + 1..])),
            '\\' => value.push(symbols.next()?.1),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::{CredentialFiles, RegistryConfig};

    #[test]
    fn challenges_are_read_in_all_their_spellings() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        };
        for (text, expected) in [
            (r#"Basic realm="x""#, vec![Challenge::Basic]),
            (
                r#"Bearer realm="https://a.io/token",service="a.io",scope="repository:x:pull,push""#,
                vec![bearer("https://a.io/token", Some("a.io"), Some("repository:x:pull,push"))],
            ),
            (
                r#"bearer realm=https://a.io/t, Basic realm="y\"z""#,
                vec![bearer("https://a.io/t", None, None), Challenge::Basic],
            ),
            (r#"Bearer service="no realm""#, vec![]),
            (r#"Bearer realm="unfinished"#, vec![]),
            ("Negotiate", vec![]),
            ("", vec![]),
        ] {
            assert_eq!(parse_challenges(text), expected, "{text}");
        }
    }

    #[test]
    fn a_password_goes_only_to_the_registrys_own_token_service() {
        let transport = Transport::new(RegistryConfig {
            credentials: CredentialFiles::none(),
            trusted_realms: vec!["sso.corp.example".to_owned()],
            ..RegistryConfig::default()
        });
        for (registry, base, realm, expected) in [
            ("a.io", "https://a.io/", "https://a.io/token", true),
            ("a.io:8443", "https://a.io:8443/", "https://a.io/token", true),
            ("docker.io", "https://registry-1.docker.io/", "https://auth.docker.io/token", true),
            ("registry.gitlab.com", "https://registry.gitlab.com/", "https://gitlab.com/jwt", true),
            ("a.io", "https://a.io/", "https://auth.a.io/token", true),
            ("a.io", "https://a.io/", "https://evil.io/token", false),
            ("a.io", "https://a.io/", "https://evila.io/token", false),
            ("a.io", "https://a.io/", "https://io/token", false),
            ("x.a.io", "https://x.a.io/", "https://y.a.io/token", false),
            ("x.a.io", "https://x.a.io/", "https://sso.corp.example/token", true),
            ("10.0.0.1", "https://10.0.0.1/", "https://0.0.0.1/token", false),
            ("127.0.0.1:5000", "http://127.0.0.1:5000/", "http://127.0.0.1:5001/token", false),
            ("127.0.0.1:5000", "http://127.0.0.1:5000/", "http://127.0.0.1:5000/token", true),
        ] {
            let host = Host::new(registry.to_owned(), Url::parse(base).unwrap(), 1);
            let realm_url = Url::parse(realm).unwrap();
            assert_eq!(
                transport.may_see_password(&host, &realm_url),
                expected,
                "{registry} {realm}"
            );
        }
    }

    #[test]
    fn a_password_is_encoded_as_base64() {
        assert_eq!(basic("me", "secret"), "Basic bWU6c2VjcmV0");
        assert_eq!(basic("other", "pw"), "Basic b3RoZXI6cHc=");
        assert_eq!(basic("a", "bc"), "Basic YTpiYw==");
    }
}
