//! Drives a headless Chromium through the DevTools protocol, over its pipe.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::{Value, json};

/// A browser that does not answer for so long hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A browser with one page.
pub struct Browser {
    process: Child,
    commands: File,
    messages: Receiver<Value>,
    session: Value,
    number: u64,
    /// What scripts threw or wrote to the console as errors.
    pub errors: Vec<Value>,
    /// The browser's profile and pipes.
    _home: tempfile::TempDir,
}

/// The program, or `None`, said, if there is none. With `CI` set it must be there.
pub fn find() -> Option<&'static str> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let is_there = |name: &&str| {
        let mut command = Command::new(name);
        command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let found = names.into_iter().find(is_there);
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "the tests of the page need Chromium");
        eprintln!("skipped: the test of the page needs Chromium, and none of {names:?} is there");
    }
    found
}

impl Browser {
    /// Opens the file `page` in a window of this width.
    pub fn open(program: &str, page: &Path, width: u32) -> Self {
        let home = tempfile::tempdir().unwrap();
        let [to, from] = ["to", "from"].map(|name| home.path().join(name));
        assert!(Command::new("mkfifo").args([&to, &from]).status().unwrap().success());
        // The browser reads from file 3 and writes to file 4.
        let mut shell = Command::new("sh");
        shell.args(["-c", "exec \"$@\" 3<\"$TO\" 4>\"$FROM\"", "sh", program]);
        shell.args(["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]);
        shell.arg(format!("--user-data-dir={}", home.path().join("profile").display()));
        shell.arg(format!("--window-size={width},900"));
        shell.env("TO", &to).env("FROM", &from).stdout(Stdio::null()).stderr(Stdio::null());
        let process = shell.spawn().unwrap();
        let commands = File::options().write(true).open(&to).unwrap();
        let messages = listen(File::open(&from).unwrap());
        let (session, errors) = (Value::Null, Vec::new());
        let mut browser =
            Self { process, commands, messages, session, number: 0, errors, _home: home };
        let target = browser.ask("Target.createTarget", json!({"url": "about:blank"}));
        let target = json!({"targetId": target["targetId"], "flatten": true});
        browser.session = browser.ask("Target.attachToTarget", target)["sessionId"].clone();
        for domain in ["Runtime.enable", "Log.enable", "Page.enable"] {
            browser.ask(domain, json!({}));
        }
        browser.ask("Page.navigate", json!({"url": format!("file://{}", page.display())}));
        while browser.next()["method"] != "Page.loadEventFired" {}
        browser
    }

    /// The value of the JavaScript `expression`.
    pub fn value(&mut self, expression: &str) -> Value {
        let asked = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let found = self.ask("Runtime.evaluate", asked);
        assert!(found.get("exceptionDetails").is_none(), "{expression}: {found}");
        found["result"]["value"].clone()
    }

    /// Presses a key as a person would.
    pub fn press(&mut self, key: &str) {
        let codes = [("Tab", 9), ("Enter", 13), ("Escape", 27), ("ArrowRight", 39)];
        let code = codes.iter().find(|(name, _)| *name == key).unwrap().1;
        let text = if key == "Enter" { "\r" } else { "" };
        for kind in ["keyDown", "keyUp"] {
            let event = json!({
                "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text
            });
            self.ask("Input.dispatchKeyEvent", event);
        }
    }

    /// The answer to a command.
    pub fn ask(&mut self, method: &str, parameters: Value) -> Value {
        self.number += 1;
        let mut command = json!({"id": self.number, "method": method, "params": parameters});
        if !self.session.is_null() {
            command["sessionId"] = self.session.clone();
        }
        self.commands.write_all(format!("{command}\0").as_bytes()).unwrap();
        loop {
            let message = self.next();
            if message["id"] == self.number {
                assert!(message.get("error").is_none(), "{command}: {message}");
                return message["result"].clone();
            }
        }
    }

    /// The next message. Errors are kept.
    fn next(&mut self) -> Value {
        let message = self.messages.recv_timeout(PATIENCE).expect("the browser does not answer");
        let parameters = &message["params"];
        let is_error = match message["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Runtime.consoleAPICalled") => parameters["type"] == "error",
            Some("Log.entryAdded") => parameters["entry"]["level"] == "error",
            _ => false,
        };
        if is_error {
            self.errors.push(parameters.clone());
        }
        message
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The messages that arrive, each ended by a zero byte.
fn listen(file: File) -> Receiver<Value> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for message in BufReader::new(file).split(0) {
            let Ok(message) = message else { return };
            if sender.send(serde_json::from_slice(&message).unwrap()).is_err() {
                return;
            }
        }
    });
    receiver
}
