//! Text as people paste it: with code fences, prompts, indentation or journal prefixes, or from
//! another command than the one that prints whole dumps.
//!
//! Text is only converted after its parser has refused it. Lines keep their numbers, so that errors
//! name the line that the reader sees.

mod iptables;
mod ipvsadm;
mod list;

pub(crate) use iptables::to_save as iptables_save;
pub(crate) use ipvsadm::to_save as ipvsadm_save;

/// Pasted text that lacks something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}; pass the output of `{command}`")]
pub struct PasteError {
    /// What the text is, and what it lacks.
    pub what: String,
    /// The command that prints the required input.
    pub command: &'static str,
}

/// Remove what surrounds the output of a command.
pub(crate) fn clean(text: &str) -> String {
    let has_fence = text.lines().any(is_fence);
    let is_quoted = text
        .lines()
        .all(|l| l.trim().is_empty() || l.trim_start().starts_with('>'));
    let mut is_inside = !has_fence;
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let line = line.strip_prefix('\u{feff}').unwrap_or(line);
        if is_fence(line) {
            is_inside = !is_inside;
        } else if is_inside {
            let mut line = line.trim_end();
            if is_quoted {
                line = line.trim_start().trim_start_matches('>');
            }
            let line = without_journal(line.trim_start()).trim_start();
            if !is_prompt(line) {
                out.push_str(&line.replace('\u{a0}', " "));
            }
        }
        out.push('\n');
    }
    out
}

fn is_fence(line: &str) -> bool {
    let line = line.trim_start().trim_start_matches("> ");
    line.starts_with("```") || line.starts_with("~~~")
}

/// The programs whose output is read.
const PROGRAMS: [&str; 6] = ["iptables", "ip6tables", "nft", "ipset", "ipvsadm", "sluice"];

/// Return whether a line is a shell prompt with a command: `[root@node ~]# iptables-save`.
pub(crate) fn is_prompt(line: &str) -> bool {
    command(line).is_some()
}

/// Return the command behind a shell prompt.
pub(crate) fn command(line: &str) -> Option<&str> {
    let line = line.trim();
    let starts = |rest: &str| {
        let mut words = rest.split_whitespace();
        let mut word = words.next()?;
        while matches!(word, "sudo" | "-E") || word.contains("/bin/") && word.ends_with("sudo") {
            word = words.next()?;
        }
        let program = word.rsplit('/').next().unwrap_or(word);
        let known = PROGRAMS.iter().any(|p| program.starts_with(p));
        let runs = matches!(program, "kubectl" | "docker" | "crictl" | "nsenter" | "ssh");
        (known || runs).then_some(())
    };
    for sign in ["$ ", "# ", "% ", "> "] {
        if let Some((before, rest)) = line.split_once(sign)
            && (before.is_empty() || before.contains('@') || before.contains('~'))
            && starts(rest).is_some()
        {
            return Some(rest);
        }
    }
    None
}

/// Remove the prefix of a journal or syslog line: `Nov 24 08:11:20 node1 iptables-save[311]: `, or
/// with an ISO time stamp.
fn without_journal(line: &str) -> &str {
    let Some((before, rest)) = line.split_once("]: ").or_else(|| line.split_once(": ")) else {
        return line;
    };
    let words: Vec<&str> = before.split_whitespace().collect();
    let is_time = |word: &str| {
        let digits = word.bytes().filter(u8::is_ascii_digit).count();
        word.matches(':').count() >= 2 && digits >= 6
    };
    match words.as_slice() {
        [month, day, time, _, _]
            if month.len() == 3 && day.parse::<u8>().is_ok() && is_time(time) =>
        {
            rest
        }
        [time, _, _] if is_time(time) => rest,
        _ => line,
    }
}

/// Convert `ipset list` to what `ipset save` prints.
pub(crate) fn ipset_save(text: &str) -> Result<String, PasteError> {
    let text = clean(text);
    let mut out = String::with_capacity(text.len());
    let (mut name, mut kind, mut is_member) = ("", "", false);
    for line in text.lines() {
        let line = line.trim();
        let field = line.split_once(": ");
        match field {
            _ if line.is_empty() || line.starts_with("create ") || line.starts_with("add ") => {
                out.push_str(line);
                is_member &= !line.is_empty();
            }
            Some(("Name", value)) => (name, is_member) = (value.trim(), false),
            Some(("Type", value)) if !is_member => kind = value.trim(),
            Some(("Header", value)) if !is_member => {
                out.push_str(&format!("create {name} {kind} {}", value.trim()));
            }
            Some((_, _)) if !is_member => {}
            _ if line == "Members:" => is_member = true,
            _ if is_member => out.push_str(&format!("add {name} {line}")),
            _ => {
                return Err(PasteError {
                    what: format!("{line:?} is neither from `ipset save` nor from `ipset list`"),
                    command: "ipset save",
                });
            }
        }
        out.push('\n');
    }
    Ok(out)
}
