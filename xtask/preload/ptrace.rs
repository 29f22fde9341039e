//! Preloaded into the User Mode Linux kernel: its `ptrace`.
//!
//! User Mode Linux 6.1 stores 2696 bytes of a process's floating-point registers and writes only those
//! back. A processor with more state (AMX tiles: 11,008 bytes) accepts only the complete state, so no
//! process could run. This library adds the rest, marked as unused: processes in the machine have no
//! tiles, because they never request them from the kernel.
#![no_std]

use core::ffi::{CStr, c_char, c_int, c_long, c_void};
use core::ptr;

/// `linux/ptrace.h`.
const GETREGSET: c_long = 0x4204;
const SETREGSET: c_long = 0x4205;
/// `linux/elf.h`.
const NT_X86_XSTATE: usize = 0x202;
/// The system call's number on x86-64, the only architecture of User Mode Linux.
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

/// Larger than any processor's state, and too large for the kernel's stacks.
const ROOM: usize = 65536;
static mut REGISTERS: [u8; ROOM] = [0; ROOM];
/// Size of this processor's state, once read.
static mut LENGTH: usize = 0;

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// Replacement of the C library's `ptrace`, which the kernel calls with four arguments.
///
/// # Safety
/// As `ptrace(2)`; only one thread may call it at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptrace(request: c_int, pid: c_int, which: usize, data: usize) -> c_long {
    let request = c_long::from(request);
    let registers = which == NT_X86_XSTATE && (request == GETREGSET || request == SETREGSET);
    let all = (&raw mut REGISTERS).cast::<u8>();
    // SAFETY: only one thread of the kernel traces. `data` points to its
    // buffer, whose length it states; `all` is larger than any processor's state.
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
