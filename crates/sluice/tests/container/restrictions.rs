//! What the running proxy can no longer do.

use nix::errno::Errno;
use nix::libc;

use crate::inject::Arg::{Number, Text};
use crate::inject::{Arg, PTRACE_ATTACH, Stopped};
use crate::pod::Container;

fn number(value: libc::c_int) -> Arg {
    Number(u64::from(value.cast_unsigned()))
}

/// Make the proxy try operations, and return its process id.
pub(crate) fn show(proxy: &Container<'_>) -> i32 {
    let pid = proxy.pid();
    let planted = proxy.plant();
    let statusz = proxy.statusz();
    let process = Stopped::new(pid);
    let open = |path, flags| {
        let args = [
            number(libc::AT_FDCWD),
            Text(path),
            number(flags),
            number(0o600),
        ];
        process.call(libc::SYS_openat, &args).map(drop)
    };
    let write = libc::O_WRONLY | libc::O_CREAT;
    assert_eq!(open("/proc/self/status", libc::O_RDONLY), Ok(()));
    assert_eq!(open("/var/lib/sluice/new", write), Ok(()));
    // The virtual machine's kernel lacks Landlock; what remains are the container's own restrictions.
    let landlock = statusz.contains("landlock (files)");
    let by_container = [
        "/usr/local/bin/new",
        "/etc/new",
        "/etc/sluice/config.conf",
        "/proc/sys/net/ipv4/ip_forward",
    ];
    let by_landlock = ["/dev/shm/new", "/proc/self/oom_score_adj"];
    let by_landlock = by_landlock.into_iter().filter(|_| landlock);
    for path in by_container.into_iter().chain(by_landlock) {
        let refused = open(path, write);
        let errors = [Err(Errno::EACCES), Err(Errno::EROFS)];
        assert!(errors.contains(&refused), "{path}: {refused:?}");
    }

    let socket = |domain, kind, protocol| {
        let args = [number(domain), number(kind), number(protocol)];
        process.call(libc::SYS_socket, &args).map(drop)
    };
    let raw = socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW);
    assert_eq!(raw, Err(Errno::EPERM));
    assert_eq!(socket(libc::AF_INET, libc::SOCK_DGRAM, 0), Ok(()));
    // Reads all packets of the node.
    assert_eq!(
        socket(libc::AF_PACKET, libc::SOCK_RAW, 0),
        Err(Errno::EPERM)
    );
    assert_eq!(
        socket(libc::AF_ALG, libc::SOCK_SEQPACKET, 0),
        Err(Errno::EPERM)
    );

    for program in ["/usr/sbin/iptables", "/usr/local/bin/kube-proxy", planted] {
        let args = [Text(program), Number(0), Number(0)];
        let executed = process.call(libc::SYS_execve, &args);
        assert_eq!(executed, Err(Errno::EPERM), "{program}");
    }
    nothing_else(&process);
    pid
}

/// Operations that no mode needs.
fn nothing_else(process: &Stopped) {
    let zero = [Number(0); 6];
    let mount = [
        Text("tmpfs"),
        Text("/var/lib/sluice"),
        Text("tmpfs"),
        Number(0),
        Number(0),
    ];
    let attach = [Number(PTRACE_ATTACH), Number(1), Number(0), Number(0)];
    let user_namespace = [number(libc::CLONE_NEWUSER)];
    let mknod = [
        number(libc::AT_FDCWD),
        Text("/var/lib/sluice/kmsg"),
        number(0o020_600),
        Number(0x10b),
    ];
    for (name, call, args) in [
        ("mount", libc::SYS_mount, &mount[..]),
        ("ptrace", libc::SYS_ptrace, &attach),
        ("init_module", libc::SYS_init_module, &zero),
        ("finit_module", libc::SYS_finit_module, &zero),
        ("unshare", libc::SYS_unshare, &user_namespace),
        ("setns", libc::SYS_setns, &zero),
        ("bpf", libc::SYS_bpf, &zero),
        ("process_vm_readv", libc::SYS_process_vm_readv, &zero),
        ("mknodat", libc::SYS_mknodat, &mknod),
        ("chroot", libc::SYS_chroot, &[Text("/")]),
        ("io_uring_setup", libc::SYS_io_uring_setup, &zero),
        ("keyctl", libc::SYS_keyctl, &zero),
        ("reboot", libc::SYS_reboot, &zero),
    ] {
        assert_eq!(process.call(call, args), Err(Errno::EPERM), "{name}");
    }
}
