//! System calls that a running process is made to do, by its tracer: they meet exactly the restrictions of
//! that process (x86-64).

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use nix::errno::Errno;
use nix::libc::{self, user_regs_struct};
use nix::sys::ptrace;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

/// The instruction `syscall`.
const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// Bytes below the stack pointer that a function may use (System V ABI, AMD64).
const RED_ZONE: u64 = 128;
/// `PTRACE_ATTACH`, `<linux/ptrace.h>`.
pub(crate) const PTRACE_ATTACH: u64 = 16;

/// An argument of a system call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Arg {
    Number(u64),
    /// The address of this text.
    Text(&'static str),
}

/// A process that is stopped by this tracer.
pub(crate) struct Stopped {
    pid: Pid,
    memory: File,
    registers: user_regs_struct,
    code: [u8; 2],
}

impl Stopped {
    /// Stop the first thread of a process.
    pub(crate) fn new(pid: i32) -> Self {
        let pid = Pid::from_raw(pid);
        ptrace::attach(pid).unwrap();
        waitpid(pid, None).unwrap();
        let mut options = File::options();
        let memory = options.read(true).write(true);
        let memory = memory.open(format!("/proc/{pid}/mem")).unwrap();
        let registers = ptrace::getregs(pid).unwrap();
        let mut code = [0; 2];
        memory.read_exact_at(&mut code, registers.rip).unwrap();
        memory.write_all_at(&SYSCALL, registers.rip).unwrap();
        Self {
            pid,
            memory,
            registers,
            code,
        }
    }

    /// Make a system call.
    pub(crate) fn call(&self, number: libc::c_long, args: &[Arg]) -> Result<u64, Errno> {
        let mut free = self.registers.rsp - RED_ZONE;
        let mut values = [0; 6];
        for (value, arg) in values.iter_mut().zip(args) {
            *value = match arg {
                Arg::Number(number) => *number,
                Arg::Text(text) => {
                    let bytes = [text.as_bytes(), &[0]].concat();
                    free -= bytes.len() as u64;
                    self.memory.write_all_at(&bytes, free).unwrap();
                    free
                }
            };
        }
        let [rdi, rsi, rdx, r10, r8, r9] = values;
        let registers = user_regs_struct {
            rax: number.cast_unsigned(),
            // The interrupted call is not restarted now.
            orig_rax: u64::MAX,
            rdi,
            rsi,
            rdx,
            r10,
            r8,
            r9,
            ..self.registers
        };
        ptrace::setregs(self.pid, registers).unwrap();
        ptrace::step(self.pid, None).unwrap();
        waitpid(self.pid, None).unwrap();
        let result = ptrace::getregs(self.pid).unwrap().rax.cast_signed();
        // Negative values down to -4095 are errors.
        if (-4095..0).contains(&result) {
            return Err(Errno::from_raw(i32::try_from(-result).unwrap()));
        }
        Ok(result.cast_unsigned())
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.memory
            .write_all_at(&self.code, self.registers.rip)
            .unwrap();
        ptrace::setregs(self.pid, self.registers).unwrap();
        ptrace::detach(self.pid, None).unwrap();
    }
}
