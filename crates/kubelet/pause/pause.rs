//! `pause`: holds a pod's namespaces. Waits for signals, reaps orphans where the pod shares its process
//! namespace, and leaves at SIGTERM or SIGINT. No library, so that it is static and tiny.
#![no_std]
#![no_main]

use core::arch::asm;

const SIGINT: isize = 2;
const SIGTERM: isize = 15;
const SIGCHLD: isize = 17;
const SIG_BLOCK: usize = 0;
/// Size of the kernel's signal set.
const SIGNAL_SET_BYTES: usize = 8;
const WNOHANG: usize = 1;

#[cfg(target_arch = "x86_64")]
mod number {
    pub const RT_SIGPROCMASK: usize = 14;
    pub const RT_SIGTIMEDWAIT: usize = 128;
    pub const WAIT4: usize = 61;
    pub const EXIT: usize = 60;
}
#[cfg(target_arch = "aarch64")]
mod number {
    pub const RT_SIGPROCMASK: usize = 135;
    pub const RT_SIGTIMEDWAIT: usize = 137;
    pub const WAIT4: usize = 260;
    pub const EXIT: usize = 93;
}

#[cfg(target_arch = "x86_64")]
fn syscall(number: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let result: isize;
    // SAFETY: the arguments are numbers or point to live memory, and the kernel keeps all other registers.
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
            lateout("rcx") _, lateout("r11") _);
    }
    result
}

#[cfg(target_arch = "aarch64")]
fn syscall(number: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let result: isize;
    // SAFETY: the arguments are numbers or point to live memory, and the kernel keeps all other registers.
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a => result, in("x1") b, in("x2") c, in("x3") d);
    }
    result
}

#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    // Blocked signals stay pending even for process 1, whose unhandled signals the kernel would drop.
    let every: u64 = !0;
    let set = &raw const every as usize;
    syscall(number::RT_SIGPROCMASK, SIG_BLOCK, set, 0, SIGNAL_SET_BYTES);
    loop {
        match syscall(number::RT_SIGTIMEDWAIT, set, 0, 0, SIGNAL_SET_BYTES) {
            SIGINT | SIGTERM => leave(0),
            SIGCHLD => while syscall(number::WAIT4, usize::MAX, 0, WNOHANG, 0) > 0 {},
            _ => {}
        }
    }
}

fn leave(code: usize) -> ! {
    loop {
        syscall(number::EXIT, code, 0, 0, 0);
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    leave(2)
}
