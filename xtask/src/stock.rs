//! Boots unmodified Debian kernels under qemu, without KVM and without a disk.
//!
//! The kernel's packages are downloaded with apt, which verifies their signatures, into
//! `target/kernels`. The cloud kernels cannot mount a folder of the host, so everything that a
//! command needs is copied into the initial RAM disk: see [`image`](crate::image).

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use crate::image;
use crate::vm::{Folder, quoted, wait, workspace};

const QEMU: &str = "qemu-system-x86_64";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const MIRROR: &str = "http://deb.debian.org/debian";
/// The mirror of suites that are no longer supported. Its indices are not renewed.
const ARCHIVE: &str = "http://archive.debian.org/debian";
/// `no_timer_check`: on a busy host, the timer's interrupts come too late for the kernel's test of them.
const APPEND: &str = "console=ttyS0 quiet panic=-1 net.ifnames=0 no_timer_check";
const PACKAGE: &str = "linux-image-cloud-amd64";

/// A kernel that Debian ships.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// The name for `--kernel`.
    pub name: &'static str,
    /// The Debian suite.
    pub suite: &'static str,
    /// The version of the package; the suite's newest if it is `None` or no longer available.
    pub version: Option<&'static str>,
}

/// The kernels that tests run on.
pub const KERNELS: [Kernel; 4] = [
    Kernel {
        name: "5.10",
        suite: "bullseye",
        version: Some("5.10.223-1"),
    },
    Kernel {
        name: "6.1",
        suite: "bookworm",
        version: Some("6.1.176-1"),
    },
    Kernel {
        name: "6.12",
        suite: "trixie",
        version: Some("6.12.117-1"),
    },
    Kernel {
        name: "sid",
        suite: "sid",
        version: None,
    },
];

/// A kernel's unpacked packages.
pub(crate) struct Unpacked {
    pub(crate) vmlinuz: PathBuf,
    /// `lib/modules/RELEASE`.
    pub(crate) modules: PathBuf,
    /// What `uname -r` prints.
    pub(crate) release: String,
}

impl Kernel {
    /// Find a kernel by its name.
    ///
    /// # Errors
    /// The name is unknown.
    pub fn named(name: &str) -> anyhow::Result<Self> {
        let found = KERNELS.into_iter().find(|kernel| kernel.name == name);
        found.with_context(|| {
            let names = KERNELS.map(|kernel| kernel.name).join(", ");
            format!("unknown kernel {name}: choose one of {names}")
        })
    }

    /// Download and unpack the packages, unless an earlier call has.
    pub(crate) fn unpacked(&self) -> anyhow::Result<Unpacked> {
        let version = self.version.unwrap_or("newest");
        let folder = workspace()
            .join("target/kernels")
            .join(self.name)
            .join(version);
        if !folder.join("complete").exists() {
            let _ = fs::remove_dir_all(&folder);
            self.download(&folder)
                .with_context(|| format!("cannot download the kernel {}", self.name))?;
            fs::write(folder.join("complete"), "")?;
        }
        let find = |pattern: &str| -> anyhow::Result<PathBuf> {
            let line = format!("find {} {pattern} | head -n 1", shell(&folder.join("root")));
            let found = output(Command::new("sh").args(["-c", &line]))?;
            ensure!(
                !found.trim().is_empty(),
                "the packages contain no {pattern}"
            );
            Ok(PathBuf::from(found.trim()))
        };
        let modules = find("-type d -path '*/lib/modules/*' -name '*-cloud-amd64'")?;
        let release = modules.file_name().unwrap_or_default();
        Ok(Unpacked {
            vmlinuz: find("-type f -name 'vmlinuz*'")?,
            release: release.to_string_lossy().into_owned(),
            modules,
        })
    }

    fn download(&self, folder: &Path) -> anyhow::Result<()> {
        for part in ["lists/partial", "cache/archives/partial", "debs", "root"] {
            fs::create_dir_all(folder.join(part))?;
        }
        fs::write(folder.join("status"), "")?;
        let apt = |tool: &str| {
            let mut command = Command::new(tool);
            for (option, value) in [
                ("Dir::Etc::sourcelist", folder.join("sources.list")),
                ("Dir::Etc::sourceparts", "-".into()),
                ("Dir::State::lists", folder.join("lists")),
                ("Dir::State::status", folder.join("status")),
                ("Dir::Cache", folder.join("cache")),
                ("Acquire::Languages", "none".into()),
                ("Acquire::Retries", "3".into()),
                (
                    "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled",
                    "false".into(),
                ),
                ("APT::Sandbox::User", "root".into()),
                ("APT::Architecture", "amd64".into()),
            ] {
                command
                    .arg("-o")
                    .arg(format!("{option}={}", value.display()));
            }
            command.current_dir(folder.join("debs"));
            command
        };
        let update = |mirror, options| {
            let suite = self.suite;
            let source = format!("deb [signed-by={KEYRING}{options}] {mirror} {suite} main\n");
            fs::write(folder.join("sources.list"), source)?;
            output(apt("apt-get").args(["--quiet", "update"]))
        };
        if let Err(error) = update(MIRROR, "") {
            eprintln!("{error:#}\nlooking for {} at {ARCHIVE}", self.suite);
            update(ARCHIVE, " check-valid-until=no")?;
        }
        let closure = |package: &str| {
            output(
                apt("apt-get")
                    .args(["--quiet", "--no-install-recommends", "--print-uris"])
                    .args(["--yes", "install", package]),
            )
        };
        let pinned = self.version.map(|version| format!("{PACKAGE}={version}"));
        let listed = match pinned.map(|package| closure(&package)) {
            Some(Ok(listed)) => listed,
            Some(Err(error)) => {
                eprintln!("{error:#}\nusing the newest kernel of {}", self.suite);
                closure(PACKAGE)?
            }
            None => closure(PACKAGE)?,
        };
        for name in kernel_packages(&listed) {
            output(apt("apt-get").args(["--quiet", "download", &name]))?;
        }
        for package in fs::read_dir(folder.join("debs"))? {
            let mut unpack = Command::new("dpkg-deb");
            output(
                unpack
                    .arg("-x")
                    .arg(package?.path())
                    .arg(folder.join("root")),
            )?;
        }
        Ok(())
    }
}

/// Return the packages that contain the kernel and its modules, among lines
/// `'URI' NAME_VERSION_ARCH.deb SIZE HASH`.
fn kernel_packages(listed: &str) -> Vec<String> {
    let names = listed.lines().filter_map(|line| {
        let file = line.strip_prefix('\'')?.split(' ').nth(1)?;
        file.split('_').next()
    });
    let is_kernel = |name: &&str| {
        let number = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
        let prefixes = ["linux-image-", "linux-binary-", "linux-modules-"];
        let rest = prefixes.iter().find_map(|prefix| name.strip_prefix(prefix));
        rest.is_some_and(number)
    };
    names.filter(is_kernel).map(str::to_owned).collect()
}

fn shell(path: &Path) -> String {
    quoted(path.as_os_str())
}

/// Run a command and return its standard output.
pub(crate) fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", command.get_program().to_string_lossy()))?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?}: {}: {}", output.status, error.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A virtual machine with a stock kernel.
#[derive(Clone, Debug)]
pub struct StockVm {
    /// The kernel.
    pub kernel: Kernel,
    /// Time after which the machine is stopped, which is an error.
    pub timeout: Duration,
    /// Memory, in MiB.
    pub memory_mib: u32,
    /// Files and folders that the guest finds at the same path; libraries of programs are added.
    pub files: Vec<PathBuf>,
    /// Environment variables, in addition to `PATH`.
    pub environment: Vec<(String, String)>,
    /// Whether the guest's clock counts its instructions, one per nanosecond. The machine then has one
    /// processor, and skips the time in which that is idle.
    pub counted: bool,
}

impl StockVm {
    /// Return a machine with this kernel and a command's program.
    pub fn new(kernel: Kernel) -> Self {
        Self {
            kernel,
            timeout: Duration::from_secs(600),
            memory_mib: 2048,
            files: Vec::new(),
            environment: Vec::new(),
            counted: false,
        }
    }

    /// Run a command in the current folder, as root, with its output on standard output. Return its
    /// exit status.
    ///
    /// # Errors
    /// The packages cannot be downloaded, the machine does not boot, or it exceeds its time.
    pub fn run(&self, command: &[OsString]) -> anyhow::Result<u8> {
        let words: Vec<String> = command.iter().map(|word| quoted(word)).collect();
        let mut with_program = self.clone();
        let program = command.first().map(PathBuf::from).unwrap_or_default();
        if program.is_file() {
            with_program.files.push(fs::canonicalize(program)?);
        }
        with_program.run_script(&words.join(" "))
    }

    /// Run a shell script likewise.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_script(&self, script: &str) -> anyhow::Result<u8> {
        let kernel = self.kernel.unpacked()?;
        let folder = Folder::new()?;
        let status = folder.path().join("status");
        let initrd = image::build(folder.path(), &kernel, &self.files, &self.init(script)?)?;
        let mut child = {
            use std::os::unix::process::CommandExt as _;
            // The machine ends with this process, even if it is killed.
            Command::new("setpriv")
                .args(["--pdeathsig", "KILL", QEMU])
                .args(match self.counted {
                    false => &["-accel", "tcg,thread=multi", "-smp", "2"][..],
                    true => &["-accel", "tcg", "-smp", "1", "-icount", "shift=0,sleep=off"],
                })
                .args(["-cpu", "max"])
                .args(["-m", &self.memory_mib.to_string(), "-no-reboot"])
                .args(["-display", "none", "-monitor", "none", "-nic", "none"])
                .args(["-serial", "stdio", "-serial"])
                .arg(format!("file:{}", status.display()))
                .arg("-kernel")
                .arg(&kernel.vmlinuz)
                .arg("-initrd")
                .arg(&initrd)
                .args(["-append", APPEND])
                .stdin(Stdio::null())
                .process_group(0)
                .spawn()
                .with_context(|| {
                    format!("cannot start {QEMU}: install it with scripts/deps kernels")
                })?
        };
        wait(&mut child, self.timeout)?;
        let status = fs::read_to_string(&status).unwrap_or_default();
        let code = status.trim().parse().context(
            "the virtual machine ended before the command did, see its output; qemu 7 does not run \
             6.12 and newer",
        )?;
        Ok(code)
    }

    /// Return the guest's first process.
    fn init(&self, script: &str) -> anyhow::Result<String> {
        let here = std::env::current_dir()?;
        let mut environment = String::new();
        for (name, value) in &self.environment {
            environment += &format!("export {name}={}\n", quoted(value.as_ref()));
        }
        Ok(format!(
            "#!/busybox/busybox sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin:/busybox HOME=/tmp
{environment}/busybox/busybox mkdir -p /busybox /proc /sys /dev /run /tmp
/busybox/busybox --install -s /busybox
mount -t proc none /proc; mount -t sysfs none /sys; mount -t devtmpfs none /dev
mount -t tmpfs none /run
mkdir -p /sys/fs/cgroup /dev/shm /run/netns /run/lock
mount -t cgroup2 none /sys/fs/cgroup; mount -t tmpfs none /dev/shm
stty -F /dev/ttyS0 -onlcr
echo /sbin/modprobe >/proc/sys/kernel/modprobe
for module in {modules}; do modprobe $module || echo \"no module $module\"; done
echo 131072 >/proc/sys/net/netfilter/nf_conntrack_max
ip link set lo up
mkdir -p {here}; cd {here}
{script}
echo $? >/dev/ttyS1
poweroff -f
",
            modules = MODULES.join(" "),
            here = shell(&here),
        ))
    }
}

/// Modules that the kernel does not load by itself when they are needed in a namespace.
const MODULES: [&str; 12] = [
    "veth",
    "bridge",
    "dummy",
    "nf_tables",
    "nft_compat",
    "ip_vs",
    "ip_vs_rr",
    "nf_conntrack_netlink",
    "br_netfilter",
    "sctp",
    "xt_set",
    "ip_set_hash_ipportnet",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_packages_with_the_kernel_are_downloaded() {
        let listed = "Reading package lists...
'http://deb/linux-image-7.2.13+deb14-cloud-amd64_7.2.13-1_amd64.deb' linux-image-7.2.13+deb14-cloud-amd64_7.2.13-1_amd64.deb 1 SHA256:0
'http://deb/k.deb' kmod_34-1_amd64.deb 1 SHA256:0
'http://deb/m.deb' linux-modules-7.2.13+deb14-cloud-amd64_7.2.13-1_amd64.deb 1 SHA256:0
'http://deb/b.deb' linux-base-cloud-amd64_7.2.13-1_amd64.deb 1 SHA256:0
'http://deb/i.deb' linux-image-cloud-amd64_7.2.13-1_amd64.deb 1 SHA256:0
";
        let names = kernel_packages(listed);
        assert_eq!(
            names,
            [
                "linux-image-7.2.13+deb14-cloud-amd64",
                "linux-modules-7.2.13+deb14-cloud-amd64"
            ]
        );
    }

    #[test]
    fn kernels_have_distinct_names() {
        for kernel in KERNELS {
            assert_eq!(Kernel::named(kernel.name).unwrap(), kernel);
        }
        assert!(Kernel::named("2.4").is_err());
    }
}
