//! The program `sluice ui`.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::node::Files;
use crate::support::SLUICE;

/// A running page.
pub(crate) struct Page {
    child: Child,
    pub(crate) url: String,
}

/// The answer to a request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Page {
    pub(crate) fn start(files: &Files, facts: &[&Path]) -> Self {
        let mut command = Command::new(SLUICE);
        command
            .arg("ui")
            .args(files.words())
            .arg("--facts")
            .args(facts);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        lines.read_line(&mut line).unwrap();
        let url = line.trim().to_owned();
        assert!(url.starts_with("http://127.0.0.1:"), "{url}");
        Self { child, url }
    }

    /// Return address and path of the page.
    pub(crate) fn parts(&self) -> (&str, &str) {
        let rest = self.url.strip_prefix("http://").unwrap();
        let (address, _) = rest.split_once('/').unwrap();
        (address, &rest[address.len()..])
    }

    /// Send a request with these lines of its head, and return the answer.
    pub(crate) fn request(&self, line: &str, headers: &[&str], body: &str) -> Answer {
        let mut stream = TcpStream::connect(self.parts().0).unwrap();
        let headers = headers.join("\r\n");
        let length = body.len();
        let head = format!(
            "{line} HTTP/1.1\r\n{headers}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        );
        stream.write_all((head + body).as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        Answer {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        }
    }

    /// Ask a question as the page does.
    pub(crate) fn get(&self, question: &str) -> Answer {
        let (address, path) = self.parts();
        let host = format!("Host: {address}");
        self.request(&format!("GET {path}api/{question}"), &[&host], "")
    }

    /// Ask a question that has an answer.
    #[track_caller]
    pub(crate) fn ask(&self, question: &str) -> Value {
        let answer = self.get(question);
        assert_eq!(answer.status, 200, "{question}: {answer:?}");
        serde_json::from_str(&answer.body).unwrap_or_else(|e| panic!("{e}: {answer:?}"))
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
