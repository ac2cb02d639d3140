//! Requests to the hub, and what its answers mean.
//!
//! Redirections are followed here and not by the HTTP library: the digest of a
//! large file stands in the answer that sends on to where its content lies, and
//! the token is for the hub alone and not for whom it sends on to.

use std::thread::sleep;
use std::time::Duration;

use hf_hub::api::RepoInfo;
use ureq::http::{HeaderMap, Response, StatusCode};
use ureq::typestate::WithoutBody;
use ureq::{Agent, Body, RequestBuilder};

use super::Address;
use super::error::HubError;
use super::settings::Settings;

/// Tries before an answer that may get better counts as the last.
pub const TRIES: u32 = 5;
const CONNECT: Duration = Duration::from_secs(10);
/// The longest silence within an answer.
const SILENCE: Duration = Duration::from_secs(30);
const REDIRECTIONS: usize = 8;

/// Why a request has come to nothing.
pub enum Trouble {
    /// Worth another try.
    Passing(String),
    Final(Box<HubError>),
}

impl From<HubError> for Trouble {
    fn from(error: HubError) -> Trouble {
        Trouble::Final(Box::new(error))
    }
}

impl Trouble {
    /// The error that it is after the last try.
    fn last(self, url: &str) -> HubError {
        match self {
            Trouble::Passing(cause) => HubError::NoAnswer { url: url.into(), tries: TRIES, cause },
            Trouble::Final(error) => *error,
        }
    }
}

/// What the hub says of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    pub name: String,
    pub etag: String,
    pub size: Option<u64>,
}

pub struct Client {
    agent: Agent,
    pub settings: Settings,
}

/// The pause before another try, after so many that have failed.
pub fn pause(failures: u32) {
    sleep(Duration::from_millis(250) * 2u32.pow(failures.min(6)));
}

impl Client {
    pub fn new(settings: Settings) -> Client {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_per_read(Some(SILENCE))
            .user_agent(concat!("host/", env!("CARGO_PKG_VERSION")))
            .build();
        Client { agent: config.into(), settings }
    }

    /// The commit that a revision is, and the names of its files.
    ///
    /// # Errors
    /// The hub cannot be reached, or has no such repository or revision, or does
    /// not show it.
    pub fn info(&self, address: &Address) -> Result<RepoInfo, HubError> {
        let url = format!("{}/api/{}", self.settings.endpoint, address.repo().api_url());
        let odd = |cause: String| HubError::NoHub { url: url.clone(), cause };
        again(|| {
            let mut response = self.get(&url, None)?;
            self.accepted(address, None, &url, &mut response)?;
            let text =
                response.body_mut().read_to_string().map_err(|error| Trouble::Passing(error.to_string()));
            serde_json::from_str(&text?).map_err(|error| odd(error.to_string()).into())
        })
        .map_err(|trouble| trouble.last(&url))
    }

    /// What the hub says of a file at the address's revision.
    ///
    /// # Errors
    /// As [`Client::info`]; there is no such file.
    pub fn remote(&self, address: &Address, name: &str) -> Result<Remote, HubError> {
        let url = self.url(address, name);
        let odd = |cause: String| HubError::NoHub { url: url.clone(), cause };
        again(|| {
            let mut response = self.follow(&url, true, |url| self.agent.head(url))?;
            self.accepted(address, Some(name), &url, &mut response)?;
            let headers = response.headers();
            let header = |name: &str| Some(headers.get(name)?.to_str().ok()?.to_string());
            let etag = header("x-linked-etag").or_else(|| header("etag"));
            let etag = etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"').to_string());
            let safe = |etag: &String| {
                let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
                !etag.is_empty() && etag.len() <= 200 && etag.chars().all(plain)
            };
            let etag =
                etag.filter(safe).ok_or_else(|| odd("it has no ETag that names the content".into()))?;
            // The length of an answer that sends on is its own, not the file's.
            let own_length = || header("content-length").filter(|_| response.status().is_success());
            let size = header("x-linked-size").or_else(own_length).and_then(|size| size.parse().ok());
            Ok(Remote { name: name.into(), etag, size })
        })
        .map_err(|trouble| trouble.last(&url))
    }

    /// The content of a file from a byte on.
    pub fn content(&self, address: &Address, name: &str, from: u64) -> Result<Response<Body>, Trouble> {
        let url = self.url(address, name);
        let mut response = self.get(&url, (from > 0).then_some(from))?;
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            return Ok(response);
        }
        self.accepted(address, Some(name), &url, &mut response)?;
        Ok(response)
    }

    fn url(&self, address: &Address, name: &str) -> String {
        let repo = address.repo();
        format!("{}/{}/resolve/{}/{}", self.settings.endpoint, repo.url(), repo.url_revision(), encoded(name))
    }

    fn get(&self, url: &str, from: Option<u64>) -> Result<Response<Body>, Trouble> {
        self.follow(url, false, |url| {
            let request = self.agent.get(url);
            match from {
                Some(from) => request.header("Range", format!("bytes={from}-")),
                None => request,
            }
        })
    }

    /// Makes a request and follows where it is sent on to; away from the hub
    /// only where not `at_hub`.
    fn follow(
        &self,
        url: &str,
        at_hub: bool,
        request: impl Fn(&str) -> RequestBuilder<WithoutBody>,
    ) -> Result<Response<Body>, Trouble> {
        let mut url = url.to_string();
        for _ in 0..REDIRECTIONS {
            let mut request = request(&url).header("Accept-Encoding", "identity");
            if let Some(token) = self.settings.token.as_ref().filter(|_| self.is_hub(&url)) {
                request = request.header("Authorization", format!("Bearer {token}"));
            }
            let response = request.call().map_err(|error| self.trouble(&error))?;
            let location = response.headers().get("location").and_then(|location| location.to_str().ok());
            let (true, Some(location)) = (response.status().is_redirection(), location) else {
                return Ok(response);
            };
            let odd =
                |cause: &str| HubError::NoHub { url: url.clone(), cause: format!("{cause} {location}") };
            let next = absolute(&url, location).ok_or_else(|| odd("it sends on to"))?;
            if at_hub && !self.is_hub(&next) {
                return Ok(response);
            }
            if url.starts_with("https:") && !next.starts_with("https:") {
                return Err(odd("it sends on to an address without encryption,").into());
            }
            url = next;
        }
        Err(HubError::NoHub { url, cause: "it sends in circles".into() }.into())
    }

    /// Whether an address is the hub's own.
    fn is_hub(&self, url: &str) -> bool {
        origin(url) == origin(&self.settings.endpoint)
    }

    fn trouble(&self, error: &ureq::Error) -> Trouble {
        use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, TimedOut, UnexpectedEof};
        let passing = match error {
            ureq::Error::Io(cause) => {
                [BrokenPipe, ConnectionAborted, ConnectionReset, TimedOut, UnexpectedEof]
                    .contains(&cause.kind())
            }
            ureq::Error::Timeout(part) => !matches!(part, ureq::Timeout::Connect | ureq::Timeout::Resolve),
            ureq::Error::Protocol(_) => true,
            _ => false,
        };
        match passing {
            true => Trouble::Passing(error.to_string()),
            false => {
                let endpoint = self.settings.endpoint.clone();
                HubError::Unreachable { endpoint, cause: error.to_string() }.into()
            }
        }
    }

    /// Turns an answer that refuses into what it means.
    fn accepted(
        &self,
        address: &Address,
        file: Option<&str>,
        url: &str,
        response: &mut Response<Body>,
    ) -> Result<(), Trouble> {
        let status = response.status();
        if status.is_success() || status.is_redirection() {
            return Ok(());
        }
        if status.is_server_error() || [408, 429].contains(&status.as_u16()) {
            return Err(Trouble::Passing(format!("the hub answered {status}")));
        }
        Err(self.refusal(address, file, url, status, response.headers()).into())
    }

    fn refusal(
        &self,
        address: &Address,
        file: Option<&str>,
        url: &str,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> HubError {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (what, revision) = (address.words(), address.revision.clone());
        let page = address.page(&self.settings.endpoint);
        let token = match self.settings.token {
            Some(_) => " (the token of HF_TOKEN or of the token file does not suffice)",
            None => " (no token was sent)",
        };
        match (header("x-error-code"), status.as_u16(), file) {
            ("GatedRepo", ..) => HubError::Gated { what, page, token },
            ("RevisionNotFound", ..) => HubError::NoRevision { what, revision, page },
            ("RepoNotFound", ..) | (_, 404, None) => HubError::NoRepository {
                endpoint: self.settings.endpoint.clone(),
                what: address.kind_and_name(),
                token,
            },
            (_, 404, Some(file)) => HubError::NoFile { what, file: file.into(), revision },
            (_, status @ (401 | 403), _) => HubError::Forbidden { what, status, page, token },
            (_, status, _) => {
                let said = header("x-error-message");
                let said = if said.is_empty() { String::new() } else { format!(": {said}") };
                HubError::Refused { url: url.into(), status, said }
            }
        }
    }
}

/// Tries until it works, or is final, or has failed too often.
fn again<T>(mut attempt: impl FnMut() -> Result<T, Trouble>) -> Result<T, Trouble> {
    let mut failures = 0;
    loop {
        match attempt() {
            Err(Trouble::Passing(_)) if failures + 1 < TRIES => pause(failures),
            result => return result,
        }
        failures += 1;
    }
}

/// Scheme, host and port of an address.
fn origin(url: &str) -> &str {
    let after_scheme = url.find("://").map_or(0, |place| place + 3);
    let end = url[after_scheme..].find(['/', '?', '#']).map_or(url.len(), |place| after_scheme + place);
    &url[..end]
}

/// The address that a `Location` means in an answer from `url`.
fn absolute(url: &str, location: &str) -> Option<String> {
    if location.starts_with("http://") || location.starts_with("https://") {
        return Some(location.into());
    }
    match location.starts_with('/') && !location.starts_with("//") {
        true => Some(format!("{}{location}", origin(url))),
        false => None,
    }
}

/// A file's name as part of an address.
fn encoded(name: &str) -> String {
    let mut text = String::new();
    for byte in name.bytes() {
        match byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte) {
            true => text.push(byte.into()),
            false => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart_and_put_together() {
        assert_eq!(origin("https://a.b:8/c/d?e"), "https://a.b:8");
        assert_eq!(origin("http://a.b"), "http://a.b");
        assert_eq!(absolute("http://a.b:8/c", "/d?e=1").as_deref(), Some("http://a.b:8/d?e=1"));
        assert_eq!(absolute("http://a.b:8/c", "https://x/y").as_deref(), Some("https://x/y"));
        assert_eq!(absolute("http://a.b:8/c", "y"), None);
        assert_eq!(encoded("data/a b+č.txt"), "data/a%20b%2B%C4%8D.txt");
    }

    #[test]
    fn what_stays_wrong_is_tried_so_often() {
        let mut tries = 0;
        let result = again(|| -> Result<(), Trouble> {
            tries += 1;
            match tries {
                1 => Err(Trouble::Passing("busy".into())),
                _ => Ok(()),
            }
        });
        assert!(result.is_ok() && tries == 2);
    }
}
