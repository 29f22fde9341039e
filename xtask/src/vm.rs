//! Runs a command in a virtual machine: User Mode Linux, the Debian package `user-mode-linux`.
//!
//! Its kernel (6.1) has what this machine's may lack: IPVS, dummy interfaces, all ipset types and
//! iptables modules. It boots this machine's own file system, read-only, in about two seconds; no
//! privilege is needed for it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// The kernel, a program.
const KERNEL: &str = "linux.uml";

/// What makes it run on processors that have come after it; see there.
const PTRACE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/ptrace.so"));

/// What a command finds in the machine.
#[derive(Clone, Debug)]
pub struct Vm {
    /// After this long the machine is ended, and that is an error.
    pub timeout: Duration,
    /// Memory, in MiB.
    pub memory_mib: u32,
    /// Kernel modules that are loaded first; others as they are asked for.
    pub modules: Vec<String>,
    /// Environment variables, beside `PATH`.
    pub environment: Vec<(String, String)>,
    /// Folders of this machine that are there though they are in `/tmp`, which is empty otherwise.
    pub folders: Vec<PathBuf>,
}

/// How a command in the machine ended.
#[derive(Clone, Debug)]
pub struct Output {
    /// Its exit status; 128 and more where a signal ended it.
    pub status: u8,
    /// What it printed, among the kernel's complaints.
    pub text: String,
}

impl Default for Vm {
    /// With all that the ipvs mode needs, and this workspace with what was built of it.
    fn default() -> Self {
        let modules = [
            "ip_vs",
            "ip_vs_rr",
            "dummy",
            "veth",
            "bridge",
            "br_netfilter",
            "ip_tables",
            "iptable_filter",
            "iptable_nat",
            "iptable_mangle",
            "ip6table_filter",
            "ip6table_nat",
            "ip6table_mangle",
            "xt_ipvs",
            "xt_physdev",
            "xt_set",
        ];
        Self {
            timeout: Duration::from_secs(300),
            memory_mib: 512,
            modules: modules.map(str::to_owned).into(),
            environment: Vec::new(),
            folders: vec![workspace(), built()],
        }
    }
}

fn workspace() -> PathBuf {
    let mut folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    folder.pop();
    folder
}

/// Where cargo puts programs: this one is there, or in a folder beside them if it is a test.
fn built() -> PathBuf {
    let this = std::env::current_exe().unwrap_or_default();
    this.ancestors()
        .nth(2)
        .map(Path::to_owned)
        .unwrap_or_default()
}

/// Gone when dropped, with all that is in it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> anyhow::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("sluice-vm-{}-{n}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left of it is a few small files for the system to clear away.
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Vm {
    /// Runs a command in the present folder, as root. What it prints comes out on standard output.
    /// Returns its exit status; 128 and more where a signal ended it.
    ///
    /// # Errors
    /// The machine does not boot, or was ended for taking too long.
    pub fn run(&self, command: &[OsString]) -> anyhow::Result<u8> {
        self.run_in(&Folder::new()?, command, Stdio::inherit())
    }

    /// The same, with what it prints.
    ///
    /// # Errors
    /// The machine does not boot, or was ended for taking too long. What was printed until then is
    /// in the error.
    pub fn output(&self, command: &[OsString]) -> anyhow::Result<Output> {
        let folder = Folder::new()?;
        let printed = folder.0.join("printed");
        let stdout = fs::File::create(&printed).context("cannot make a file for the output")?;
        let result = self.run_in(&folder, command, stdout.into());
        let text = fs::read(printed).context("cannot read the output")?;
        // It is a terminal's.
        let text = String::from_utf8_lossy(&text).replace('\r', "");
        let status = result.with_context(|| format!("it printed:\n{text}"))?;
        Ok(Output { status, text })
    }

    fn run_in(&self, folder: &Folder, command: &[OsString], stdout: Stdio) -> anyhow::Result<u8> {
        let folder = &folder.0;
        let script = folder.join("init");
        let here = std::env::current_dir().context("no present folder")?;
        fs::write(&script, self.script(command, &here, folder))?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        let mut child = self.boot(folder, &script, stdout)?;
        let end = Instant::now() + self.timeout;
        let ended = loop {
            if child
                .try_wait()
                .context("waiting for the machine")?
                .is_some()
            {
                break true;
            }
            if Instant::now() >= end {
                break false;
            }
            sleep(Duration::from_millis(20));
        };
        // Also after a clean end: none of its processes may stay behind.
        kill_group(&mut child);
        if !ended {
            bail!(
                "the virtual machine was ended: the command took longer than {:?}",
                self.timeout
            );
        }
        let Ok(text) = fs::read_to_string(folder.join("status")) else {
            bail!("the virtual machine ended before the command had");
        };
        let code: u32 = text.trim().parse().context("the command's status")?;
        Ok(u8::try_from(code).unwrap_or(255))
    }

    fn boot(&self, folder: &Path, script: &Path, stdout: Stdio) -> anyhow::Result<Child> {
        let preload = folder.join("ptrace.so");
        fs::write(&preload, PTRACE).context("cannot write the kernel's library")?;
        let mut init = OsString::from("init=");
        init.push(script);
        let child = Command::new(KERNEL)
            .arg(format!("mem={}M", self.memory_mib))
            .args(["root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro"])
            .arg(init)
            .args(["con=null", "con0=fd:0,fd:1", "quiet"])
            // It keeps its sockets and memory there.
            .env("HOME", folder)
            .env("TMPDIR", folder)
            .env("LD_PRELOAD", preload)
            .stdin(Stdio::null())
            .stdout(stdout)
            // Only complaints of the kernel program itself.
            .stderr(Stdio::null())
            .process_group(0)
            .spawn();
        child.map_err(|error| match error.kind() {
            ErrorKind::NotFound => {
                anyhow::anyhow!("{KERNEL} is not installed: apt-get install user-mode-linux kmod")
            }
            _ => anyhow::Error::new(error).context(KERNEL),
        })
    }

    /// What runs in the machine as its first process.
    fn script(&self, command: &[OsString], here: &Path, folder: &Path) -> String {
        let words: Vec<String> = command.iter().map(|word| quoted(word)).collect();
        let mut environment = String::new();
        for (name, value) in &self.environment {
            environment += &format!("export {name}={}\n", quoted(OsStr::new(value)));
        }
        let mut mounts = String::new();
        let hidden = |folder: &&PathBuf| folder.starts_with("/tmp");
        for folder in self.folders.iter().filter(hidden) {
            let folder = quoted(folder.as_os_str());
            mounts += &format!("mkdir -p {folder}\nmount -t hostfs none {folder} -o {folder}\n");
        }
        format!(
            "#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp
{environment}mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
mkdir -p /run/host /run/kernel/lib /run/lock /run/netns
mount -t hostfs none /run/host -o {folder}
mount -t tmpfs tmpfs /tmp
{mounts}mount -t tmpfs tmpfs /dev/shm 2>/dev/null
ln -s /usr/lib/uml/modules /run/kernel/lib/modules
printf '#!/bin/sh\\nexec /sbin/modprobe -d /run/kernel \"$@\"\\n' >/run/modprobe
chmod +x /run/modprobe
echo /run/modprobe >/proc/sys/kernel/modprobe
for module in {modules}; do /run/modprobe \"$module\" || echo \"no module $module\"; done
ip link set lo up
# Of 4096, too few for a minute of a lab's traffic. It can only be set here, not by a proxy in a lab.
echo 131072 >/proc/sys/net/netfilter/nf_conntrack_max
cd {here}
{command}
echo $? >/run/host/status
sync
exec halt -f -p --no-wtmp >/dev/null 2>&1
",
            folder = quoted(folder.as_os_str()),
            modules = self.modules.join(" "),
            here = quoted(here.as_os_str()),
            command = words.join(" "),
        )
    }
}

/// As one word to a shell.
fn quoted(word: &OsStr) -> String {
    format!("'{}'", word.to_string_lossy().replace('\'', "'\\''"))
}

/// Ends the machine's processes, which are one group.
fn kill_group(child: &mut Child) {
    let group = format!("-{}", child.id());
    let kill = Command::new("kill")
        .args(["-KILL", "--", &group])
        .stderr(Stdio::null())
        .status();
    // Without it the machine's first process at least.
    if !kill.is_ok_and(|status| status.success()) {
        let _ = child.kill();
    }
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(vm: &Vm, line: &str) -> anyhow::Result<u8> {
        vm.run(&["/bin/sh", "-c", line].map(OsString::from))
    }

    #[test]
    fn the_status_comes_out() {
        let vm = Vm::default();
        assert_eq!(run(&vm, "test -d /sys/module/ip_vs").unwrap(), 0);
        assert_eq!(run(&vm, "exit 7").unwrap(), 7);
    }

    #[test]
    fn what_it_prints_and_reads_is_there() {
        let folder = Folder::new().unwrap();
        fs::write(folder.0.join("file"), "42\n").unwrap();
        let vm = Vm {
            modules: Vec::new(),
            folders: vec![folder.0.clone()],
            ..Vm::default()
        };
        let line = format!("cat {}/file; ls /tmp; exit 3", folder.0.display());
        let output = vm
            .output(&["/bin/sh", "-c", &line].map(OsString::from))
            .unwrap();
        assert_eq!(output.status, 3);
        assert!(output.text.contains("42\n"), "{}", output.text);
    }

    #[test]
    fn one_that_takes_too_long_is_ended() {
        let vm = Vm {
            timeout: Duration::from_secs(6),
            modules: Vec::new(),
            ..Vm::default()
        };
        let error = run(&vm, "sleep 1000").unwrap_err();
        assert!(error.to_string().contains("took longer than 6s"));
    }
}
