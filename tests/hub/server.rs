//! A hub on loopback, in the layout of the hub's addresses and headers: lists of
//! a repository's files, small files answered at once, large ones sent on to
//! another origin, refusals with the hub's codes, and faults on demand.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use sha1::{Digest, Sha1};
use sha2::Sha256;

/// A file's content; large ones have the digest of Git LFS.
#[derive(Clone)]
pub struct Content {
    pub bytes: Vec<u8>,
    pub large: bool,
}

impl Content {
    fn etag(&self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self.large {
            true => hex(&Sha256::digest(&self.bytes)),
            false => {
                let start = Sha1::new().chain_update(format!("blob {}\0", self.bytes.len()));
                hex(&start.chain_update(&self.bytes).finalize())
            }
        }
    }
}

/// What goes wrong with a file's content.
#[derive(Clone)]
pub enum Fault {
    /// The connection ends after so many bytes of an answer, so many times.
    Cut { after: usize, times: usize },
    /// So many bytes less come, and the answer says that they are all.
    Shorter(usize),
    /// Other bytes of the same number come.
    Other,
    /// More bytes come.
    Longer,
    /// The hub is busy, so many times.
    Busy(usize),
    /// The answer takes its time.
    Slow(Duration),
}

/// A repository: commits by revision, files by commit.
#[derive(Clone, Default)]
pub struct Repository {
    pub revisions: BTreeMap<String, String>,
    pub files: BTreeMap<String, BTreeMap<String, Content>>,
    /// Status and code with which all is refused to who has not this token.
    pub refusal: Option<(u16, &'static str, &'static str)>,
    /// The name under which it is now.
    pub moved: Option<String>,
}

impl Repository {
    /// One commit on the main branch.
    pub fn new(files: &[(&str, &[u8], bool)]) -> Repository {
        let mut repository = Repository::default();
        repository.commit("main", 'a', files);
        repository
    }

    /// A commit of forty times the same digit, under a revision.
    pub fn commit(&mut self, revision: &str, digit: char, files: &[(&str, &[u8], bool)]) {
        let commit = digit.to_string().repeat(40);
        self.revisions.insert(revision.into(), commit.clone());
        let content = |&(name, bytes, large): &(&str, &[u8], bool)| {
            (name.to_string(), Content { bytes: bytes.to_vec(), large })
        };
        self.files.insert(commit, files.iter().map(content).collect());
    }
}

/// A request that came.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub range: Option<String>,
    pub token: Option<String>,
    /// Whether it came to where large contents are.
    pub elsewhere: bool,
}

#[derive(Default)]
pub struct State {
    /// By `models/NAME` and `datasets/NAME`.
    pub repositories: BTreeMap<String, Repository>,
    pub faults: BTreeMap<String, Fault>,
    pub requests: Vec<Request>,
}

pub struct Server {
    hub: SocketAddr,
    pub state: Arc<Mutex<State>>,
}

impl Server {
    pub fn start() -> Server {
        let state = Arc::new(Mutex::new(State::default()));
        let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (hub, elsewhere) = (listen(), listen());
        let (address, contents) = (hub.local_addr().unwrap(), elsewhere.local_addr().unwrap());
        for (listener, is_elsewhere) in [(hub, false), (elsewhere, true)] {
            let state = state.clone();
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let state = state.clone();
                    thread::spawn(move || answer(stream, &state, contents, is_elsewhere));
                }
            });
        }
        Server { hub: address, state }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.hub)
    }

    pub fn add(&self, name: &str, repository: Repository) {
        self.state.lock().unwrap().repositories.insert(name.into(), repository);
    }

    pub fn fault(&self, file: &str, fault: Fault) {
        self.state.lock().unwrap().faults.insert(file.into(), fault);
    }

    pub fn mend(&self) {
        self.state.lock().unwrap().faults.clear();
    }

    pub fn requests(&self) -> Vec<Request> {
        self.state.lock().unwrap().requests.clone()
    }

    /// How often the content of a file was asked for.
    pub fn contents(&self, file: &str) -> usize {
        let is = |request: &&Request| request.method == "GET" && request.path.ends_with(&format!("/{file}"));
        self.requests().iter().filter(is).filter(|request| !request.elsewhere).count()
    }
}

fn answer(stream: TcpStream, state: &Mutex<State>, contents: SocketAddr, elsewhere: bool) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    if reader.read_line(&mut line).unwrap_or(0) == 0 {
        return;
    }
    let (mut range, mut token) = (None, None);
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header).unwrap_or(0) == 0 || header.trim().is_empty() {
            break;
        }
        let Some((name, value)) = header.split_once(':') else { continue };
        match name.to_lowercase().as_str() {
            "range" => range = Some(value.trim().to_string()),
            "authorization" => token = Some(value.trim().to_string()),
            _ => {}
        }
    }
    let mut words = line.split(' ');
    let (method, path) = (words.next().unwrap().to_string(), words.next().unwrap().to_string());
    let request = Request { method, path, range, token, elsewhere };
    state.lock().unwrap().requests.push(request.clone());
    let reply = Reply { stream, head: request.method == "HEAD" };
    if elsewhere {
        let (key, file) = request.path[1..].split_once('!').unwrap();
        let (key, commit) = key.rsplit_once('@').unwrap();
        let content = state.lock().unwrap().repositories[key].files[commit][file].clone();
        return reply.content(&content, file, &request, state, &[]);
    }
    if let Some(path) = request.path.strip_prefix("/api/") {
        let Some((key, revision)) = path.split_once("/revision/") else { return reply.refuse(404, "") };
        listing(reply, state, key, &revision.replace("%2F", "/"), &request);
    } else if let Some((name, rest)) = request.path[1..].split_once("/resolve/") {
        let (revision, file) = rest.split_once('/').unwrap();
        let key = match name.strip_prefix("datasets/") {
            Some(name) => format!("datasets/{name}"),
            None => format!("models/{name}"),
        };
        resolve(reply, state, &key, &revision.replace("%2F", "/"), file, &request, contents);
    } else {
        reply.refuse(404, "");
    }
}

/// The repository and the commit, or the refusal.
fn found(
    state: &Mutex<State>,
    key: &str,
    revision: &str,
    request: &Request,
) -> Result<(Repository, String), (u16, &'static str)> {
    let state = state.lock().unwrap();
    let Some(repository) = state.repositories.get(key) else { return Err((401, "RepoNotFound")) };
    if let Some((status, code, token)) = repository.refusal
        && request.token.as_deref() != Some(&format!("Bearer {token}"))
    {
        return Err((status, code));
    }
    let commit = match repository.files.contains_key(revision) {
        true => Some(revision.to_string()),
        false => repository.revisions.get(revision).cloned(),
    };
    match commit {
        Some(commit) => Ok((repository.clone(), commit)),
        None if repository.moved.is_some() => Ok((repository.clone(), String::new())),
        None => Err((404, "RevisionNotFound")),
    }
}

fn listing(reply: Reply, state: &Mutex<State>, key: &str, revision: &str, request: &Request) {
    match found(state, key, revision, request) {
        Err((status, code)) => reply.refuse(status, code),
        Ok((Repository { moved: Some(name), .. }, _)) => {
            reply.send(307, &[("Location", format!("/api/models/{name}/revision/{revision}"))], b"");
        }
        Ok((repository, commit)) => {
            let siblings: Vec<_> = repository.files[&commit]
                .keys()
                .map(|name| serde_json::json!({ "rfilename": name }))
                .collect();
            let body = serde_json::json!({ "sha": commit, "siblings": siblings });
            reply.send(200, &[("Content-Type", "application/json".into())], body.to_string().as_bytes());
        }
    }
}

fn resolve(
    reply: Reply,
    state: &Mutex<State>,
    key: &str,
    revision: &str,
    file: &str,
    request: &Request,
    contents: SocketAddr,
) {
    let (repository, commit) = match found(state, key, revision, request) {
        Err((status, code)) => return reply.refuse(status, code),
        Ok(found) => found,
    };
    if let Some(name) = repository.moved {
        let location = format!("/{name}/resolve/{revision}/{file}");
        return reply.send(307, &[("Location", location)], b"");
    }
    let Some(content) = repository.files[&commit].get(file) else {
        return reply.refuse(404, "EntryNotFound");
    };
    let quoted = format!("\"{}\"", content.etag());
    if !content.large {
        let headers = [("X-Repo-Commit", commit), ("ETag", quoted)];
        return reply.content(content, file, request, state, &headers);
    }
    let headers = [
        ("X-Repo-Commit", commit.clone()),
        ("X-Linked-ETag", quoted),
        ("X-Linked-Size", content.bytes.len().to_string()),
        ("ETag", "\"of-the-redirection\"".into()),
        ("Location", format!("http://{contents}/{key}@{commit}!{file}")),
    ];
    reply.send(302, &headers, b"moved");
}

struct Reply {
    stream: TcpStream,
    head: bool,
}

impl Reply {
    fn send(mut self, status: u16, headers: &[(&str, String)], body: &[u8]) {
        self.start(status, headers, body.len());
        if !self.head {
            let _ = self.stream.write_all(body);
        }
    }

    fn start(&mut self, status: u16, headers: &[(&str, String)], length: usize) {
        let mut text = format!("HTTP/1.1 {status} x\r\nConnection: close\r\nContent-Length: {length}\r\n");
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        let _ = self.stream.write_all(format!("{text}\r\n").as_bytes());
    }

    fn refuse(self, status: u16, code: &str) {
        self.send(status, &[("X-Error-Code", code.into())], b"{}");
    }

    /// A content, from where the request wants it, with the file's fault.
    fn content(
        mut self,
        content: &Content,
        file: &str,
        request: &Request,
        state: &Mutex<State>,
        headers: &[(&str, String)],
    ) {
        let mut bytes = content.bytes.clone();
        let fault = state.lock().unwrap().faults.get(file).cloned();
        let mut cut = None;
        let one_less = |fault: Fault| _ = state.lock().unwrap().faults.insert(file.into(), fault);
        match fault.filter(|_| !self.head) {
            Some(Fault::Busy(times)) if times > 0 => {
                one_less(Fault::Busy(times - 1));
                return self.refuse(503, "");
            }
            Some(Fault::Cut { after, times }) if times > 0 => {
                one_less(Fault::Cut { after, times: times - 1 });
                cut = Some(after);
            }
            Some(Fault::Shorter(by)) => bytes.truncate(bytes.len() - by),
            Some(Fault::Other) => bytes.iter_mut().for_each(|byte| *byte ^= 1),
            Some(Fault::Longer) => bytes.extend(b"more"),
            Some(Fault::Slow(time)) => thread::sleep(time),
            _ => {}
        }
        let from = request
            .range
            .as_deref()
            .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
        let mut headers = headers.to_vec();
        let status = match from {
            Some(from) if from >= bytes.len() => return self.send(416, &[], b""),
            Some(from) => {
                let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
                headers.push(("Content-Range", range));
                bytes.drain(..from);
                206
            }
            None => 200,
        };
        match cut {
            Some(after) => {
                self.start(status, &headers, bytes.len());
                bytes.truncate(after);
                let _ = self.stream.write_all(&bytes);
            }
            None => self.send(status, &headers, &bytes),
        }
    }
}
