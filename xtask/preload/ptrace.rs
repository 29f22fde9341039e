//! Preloaded into the User Mode Linux kernel: its `ptrace`.
//!
//! Linux 6.1 has room for 2696 bytes of a process's floating-point registers, and hands just those
//! back when it sets them. A machine with bigger ones (AMX tiles: 11,008 bytes) wants all or
//! nothing, so that no process could ever run there. Here the rest is added, as "not in use": the
//! processes in the machine have no tiles, since they never ask the kernel for them.
#![no_std]

use core::ffi::{CStr, c_char, c_int, c_long, c_void};
use core::ptr;

/// `linux/ptrace.h`.
const GETREGSET: c_long = 0x4204;
const SETREGSET: c_long = 0x4205;
/// `linux/elf.h`.
const NT_X86_XSTATE: usize = 0x202;
/// The system call's number on x86-64, the only machine that User Mode Linux runs on.
const SYS_PTRACE: c_long = 101;
/// `RTLD_NEXT` of `dlfcn.h`.
const NEXT: isize = -1;
const NAME: &CStr = c"ptrace";

/// `struct iovec`.
#[repr(C)]
struct Part {
    base: *mut u8,
    len: usize,
}

/// Bigger than any processor's; the kernel's own stacks are too small for it.
const ROOM: usize = 65536;
static mut REGISTERS: [u8; ROOM] = [0; ROOM];
/// How much of it this machine has, once that was read.
static mut LENGTH: usize = 0;

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// As `ptrace(2)`, with which every caller passes four arguments.
///
/// # Safety
/// As `ptrace(2)`; one thread at a time, as that kernel is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptrace(request: c_int, pid: c_int, which: usize, data: usize) -> c_long {
    let request = c_long::from(request);
    let registers = which == NT_X86_XSTATE && (request == GETREGSET || request == SETREGSET);
    let all = (&raw mut REGISTERS).cast::<u8>();
    // SAFETY: the kernel that this is loaded into has one thread that traces. `data` points to its
    // buffer, whose length it states; `all` has room for more than any machine's registers.
    unsafe {
        let part = data as *mut Part;
        if !registers || (request == SETREGSET && LENGTH <= (*part).len) {
            let next = dlsym(NEXT as *mut c_void, NAME.as_ptr());
            let next: unsafe extern "C" fn(c_long, c_long, usize, usize) -> c_long =
                core::mem::transmute(next);
            return next(request, c_long::from(pid), which, data);
        }
        let mut whole = Part {
            base: all,
            len: ROOM,
        };
        let length = (*part).len;
        if request == SETREGSET {
            ptr::copy_nonoverlapping((*part).base, all, length);
            ptr::write_bytes(all.add(length), 0, LENGTH - length);
            whole.len = LENGTH;
        }
        let result = syscall(
            SYS_PTRACE,
            request,
            c_long::from(pid),
            which,
            &raw mut whole,
        );
        if request == GETREGSET && result >= 0 {
            LENGTH = whole.len;
            (*part).len = length.min(whole.len);
            ptr::copy_nonoverlapping(all, (*part).base, (*part).len);
        }
        result
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
