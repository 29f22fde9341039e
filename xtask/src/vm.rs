//! Virtual machines with User Mode Linux, the Debian package `user-mode-linux`.
//!
//! Its kernel (6.1) has features that the host's may lack: IPVS, dummy interfaces, all ipset types
//! and iptables modules. It boots the host's file system, read-only, in about two seconds, and
//! needs no privilege.

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

/// The kernel, which is a program.
const KERNEL: &str = "linux.uml";

/// Library that lets the kernel run on processors newer than it; see its source.
const PTRACE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/ptrace.so"));

/// A virtual machine.
#[derive(Clone, Debug)]
pub struct Vm {
    /// Time after which the machine is stopped, which is an error.
    pub timeout: Duration,
    /// Memory, in MiB.
    pub memory_mib: u32,
    /// Kernel modules to load at boot; the kernel loads others on demand.
    pub modules: Vec<String>,
    /// Environment variables, in addition to `PATH`.
    pub environment: Vec<(String, String)>,
    /// Folders of the host below `/tmp` that the guest sees; its `/tmp` is otherwise empty.
    pub folders: Vec<PathBuf>,
}

/// The result of a command in the machine.
#[derive(Clone, Debug)]
pub struct Output {
    /// Exit status; 128 and more if a signal ended the command.
    pub status: u8,
    /// Output of the command and of the kernel.
    pub text: String,
}

impl Default for Vm {
    /// With all modules of ipvs mode, and with the workspace and its build folder.
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
            timeout: Duration::from_secs(1200),
            memory_mib: 512,
            modules: modules.map(str::to_owned).into(),
            environment: Vec::new(),
            folders: vec![workspace(), built()],
        }
    }
}

pub(crate) fn workspace() -> PathBuf {
    let mut folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    folder.pop();
    folder
}

/// Return cargo's output folder, which contains this program, or its parent folder if this is a
/// test.
fn built() -> PathBuf {
    let this = std::env::current_exe().unwrap_or_default();
    this.ancestors()
        .nth(2)
        .map(Path::to_owned)
        .unwrap_or_default()
}

/// A temporary folder, deleted on drop.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> anyhow::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("sluice-vm-{}-{n}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A few small files in /tmp are harmless.
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Vm {
    /// Run a command in the current folder, as root, with its output on standard output. Return its
    /// exit status; 128 and more if a signal ended it.
    ///
    /// # Errors
    /// The machine does not boot, or exceeds its time.
    pub fn run(&self, command: &[OsString]) -> anyhow::Result<u8> {
        self.run_in(&Folder::new()?, command, Stdio::inherit())
    }

    /// Run a command likewise and return its output.
    ///
    /// # Errors
    /// The machine does not boot, or exceeds its time. The error contains the output so far.
    pub fn output(&self, command: &[OsString]) -> anyhow::Result<Output> {
        let folder = Folder::new()?;
        let printed = folder.0.join("printed");
        let stdout = fs::File::create(&printed).context("cannot create a file for the output")?;
        let result = self.run_in(&folder, command, stdout.into());
        let text = fs::read(printed).context("cannot read the output")?;
        // The console is a terminal.
        let text = String::from_utf8_lossy(&text).replace('\r', "");
        let status = result.with_context(|| format!("output so far:\n{text}"))?;
        Ok(Output { status, text })
    }

    fn run_in(&self, folder: &Folder, command: &[OsString], stdout: Stdio) -> anyhow::Result<u8> {
        let folder = &folder.0;
        let script = folder.join("init");
        let here = std::env::current_dir().context("the current folder does not exist")?;
        fs::write(&script, self.script(command, &here, folder))?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        let mut child = self.boot(folder, &script, stdout)?;
        wait(&mut child, self.timeout)?;
        let Ok(text) = fs::read_to_string(folder.join("status")) else {
            bail!("the virtual machine ended before the command did");
        };
        let code: u32 = text.trim().parse().context("the command's status")?;
        Ok(u8::try_from(code).unwrap_or(255))
    }

    fn boot(&self, folder: &Path, script: &Path, stdout: Stdio) -> anyhow::Result<Child> {
        let preload = folder.join("ptrace.so");
        fs::write(&preload, PTRACE).context("cannot write the library for the kernel")?;
        let mut init = OsString::from("init=");
        init.push(script);
        let child = Command::new(KERNEL)
            .arg(format!("mem={}M", self.memory_mib))
            .args(["root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro"])
            .arg(init)
            .args(["con=null", "con0=fd:0,fd:1", "quiet"])
            // For its sockets and memory.
            .env("HOME", folder)
            .env("TMPDIR", folder)
            .env("LD_PRELOAD", preload)
            .stdin(Stdio::null())
            .stdout(stdout)
            // Only messages of the kernel program itself.
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

    /// Return the guest's first process.
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
# The default of 4096 is too small for a lab, and a proxy in a namespace cannot change it.
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

/// Quote a word for a shell.
pub(crate) fn quoted(word: &OsStr) -> String {
    format!("'{}'", word.to_string_lossy().replace('\'', "'\\''"))
}

/// Wait until a machine ends, and kill it if it exceeds its time.
pub(crate) fn wait(child: &mut Child, timeout: Duration) -> anyhow::Result<()> {
    let end = Instant::now() + timeout;
    let ended = loop {
        let status = child.try_wait().context("waiting for the machine")?;
        if status.is_some() {
            break true;
        }
        if Instant::now() >= end {
            break false;
        }
        sleep(Duration::from_millis(20));
    };
    // After a clean end too: none of its processes may be left.
    kill_group(child);
    if !ended {
        bail!("the virtual machine was stopped: the command took longer than {timeout:?}");
    }
    Ok(())
}

/// Kill the machine's processes, which are one group.
fn kill_group(child: &mut Child) {
    let group = format!("-{}", child.id());
    let kill = Command::new("kill")
        .args(["-KILL", "--", &group])
        .stderr(Stdio::null())
        .status();
    // If `kill` is missing, at least the first process.
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
    fn status_of_the_command_is_returned() {
        let vm = Vm::default();
        assert_eq!(run(&vm, "test -d /sys/module/ip_vs").unwrap(), 0);
        assert_eq!(run(&vm, "exit 7").unwrap(), 7);
    }

    #[test]
    fn output_is_returned_and_folders_are_visible() {
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
    fn machine_that_exceeds_its_time_is_stopped() {
        let vm = Vm {
            timeout: Duration::from_secs(6),
            modules: Vec::new(),
            ..Vm::default()
        };
        let error = run(&vm, "sleep 1000").unwrap_err();
        assert!(error.to_string().contains("took longer than 6s"));
    }
}
