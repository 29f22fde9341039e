//! The initial RAM disk of a virtual machine: the host's network tools, a kernel's modules, and the
//! files of a test.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

use crate::stock::{Unpacked, output};
use crate::vm::quoted;

const BUSYBOX: &str = "/bin/busybox";

/// Programs of the host, looked up in `PATH`. Busybox provides the rest.
const PROGRAMS: [&str; 15] = [
    "sh",
    // For ipvsadm-save.
    "bash",
    "ip",
    "tc",
    "nft",
    "xtables-nft-multi",
    "xtables-legacy-multi",
    "ipset",
    "ipvsadm",
    "ipvsadm-save",
    "ipvsadm-restore",
    "conntrack",
    "kmod",
    "nc.openbsd",
    "ping",
];

/// Folders of modules that networking needs; the rest would only cost memory.
const MODULES: &str = "kernel/net kernel/lib kernel/crypto kernel/arch kernel/drivers/net";

/// Write the RAM disk into a folder and return its path.
pub(crate) fn build(
    folder: &Path,
    kernel: &Unpacked,
    files: &[PathBuf],
    init: &str,
) -> anyhow::Result<PathBuf> {
    let root = folder.join("root");
    let image = Image { root: root.clone() };
    for part in [
        "busybox",
        "etc",
        "var/lib",
        "usr/bin",
        "usr/sbin",
        "usr/lib",
        "usr/lib64",
    ] {
        fs::create_dir_all(root.join(part))?;
    }
    for part in ["bin", "sbin", "lib", "lib64"] {
        symlink(Path::new("usr").join(part), root.join(part))?;
    }
    fs::copy(BUSYBOX, root.join("busybox/busybox"))
        .with_context(|| format!("{BUSYBOX}: install it with scripts/deps kernels"))?;
    for program in PROGRAMS {
        image.add_program(program)?;
    }
    image.add(Path::new("/usr/lib/x86_64-linux-gnu/xtables"))?;
    for file in [
        "/etc/protocols",
        "/etc/services",
        "/etc/nsswitch.conf",
        "/etc/passwd",
        "/etc/group",
    ] {
        if Path::new(file).exists() {
            image.add(Path::new(file))?;
        }
    }
    image.link_names()?;
    for file in files {
        image.add(file)?;
    }
    image.add_modules(kernel)?;
    fs::write(root.join("init"), init)?;
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
    pack(&root, &folder.join("initrd"))
}

struct Image {
    root: PathBuf,
}

impl Image {
    fn at(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    fn add_program(&self, name: &str) -> anyhow::Result<()> {
        let folders = ["/usr/sbin", "/usr/bin"];
        let mut paths = folders.iter().map(|folder| Path::new(folder).join(name));
        match paths.find(|path| path.exists()) {
            Some(path) => self.add(&path),
            // Busybox has a replacement, or only some of the tests need it.
            None => Ok(()),
        }
    }

    /// Add a file with the libraries that it needs, or a folder.
    fn add(&self, path: &Path) -> anyhow::Result<()> {
        if path.is_dir() {
            for entry in fs::read_dir(path)? {
                self.add(&entry?.path())?;
            }
            return Ok(());
        }
        let to = self.at(path);
        if to.exists() {
            return Ok(());
        }
        fs::create_dir_all(to.parent().unwrap_or(&self.root))?;
        fs::copy(path, &to).with_context(|| format!("cannot copy {}", path.display()))?;
        if !is_elf(path)? {
            return Ok(());
        }
        // Debug information fills the guest's memory.
        let _ = Command::new("strip").arg("--strip-debug").arg(&to).status();
        // Statically linked programs make ldd fail; they need nothing.
        let listed = Command::new("ldd")
            .arg(path)
            .stderr(Stdio::null())
            .output()?;
        for word in String::from_utf8_lossy(&listed.stdout).split_whitespace() {
            if word.starts_with('/') {
                self.add(Path::new(word))?;
            }
        }
        Ok(())
    }

    /// Give programs the names that are links on the host.
    fn link_names(&self) -> anyhow::Result<()> {
        for family in ["iptables", "ip6tables"] {
            for tool in ["", "-save", "-restore"] {
                for (kind, program) in [
                    ("-nft", "xtables-nft-multi"),
                    ("-legacy", "xtables-legacy-multi"),
                    ("", "xtables-nft-multi"),
                ] {
                    let name = format!("usr/sbin/{family}{kind}{tool}");
                    symlink(program, self.root.join(name))?;
                }
            }
        }
        for name in ["modprobe", "insmod", "lsmod"] {
            symlink("/bin/kmod", self.root.join("sbin").join(name))?;
        }
        symlink("nc.openbsd", self.root.join("bin/nc"))?;
        Ok(())
    }

    fn add_modules(&self, kernel: &Unpacked) -> anyhow::Result<()> {
        let to = self.root.join("lib/modules").join(&kernel.release);
        fs::create_dir_all(&to)?;
        let line = format!(
            "find {MODULES} -name '*.ko*' | cpio --quiet -pdm {to}; [ ! -e modules.order ] || cp modules.builtin modules.order {to}",
            to = quoted(to.as_os_str()),
        );
        output(
            Command::new("sh")
                .args(["-ec", &line])
                .current_dir(&kernel.modules),
        )?;
        // Not every kernel accepts compressed modules from the host's kmod.
        let line = "find . -name '*.ko.xz' -exec xz --decompress {} +
                    find . -name '*.ko.zst' -exec zstd --quiet --decompress --rm {} +";
        output(Command::new("sh").args(["-ec", line]).current_dir(&to))?;
        let mut depmod = Command::new("/sbin/depmod");
        output(depmod.arg("-b").arg(&self.root).arg(&kernel.release))?;
        Ok(())
    }
}

fn is_elf(path: &Path) -> anyhow::Result<bool> {
    use std::io::Read as _;
    let mut start = [0; 4];
    let count = File::open(path)?.read(&mut start)?;
    Ok(start[..count] == *b"\x7fELF")
}

/// Write a folder as an archive that the kernel unpacks into its root. Not compressed: the guest's
/// processor is emulated.
fn pack(root: &Path, to: &Path) -> anyhow::Result<PathBuf> {
    let status = Command::new("sh")
        .args(["-c", "find . | cpio --quiet -o -H newc"])
        .current_dir(root)
        .stdout(File::create(to)?)
        .status()
        .context("cannot run cpio")?;
    ensure!(status.success(), "cpio: {status}");
    fs::remove_dir_all(root)?;
    Ok(to.to_owned())
}
