//! Waiting to within microseconds.

#[cfg(target_os = "linux")]
pub(super) use linux::Timer;
#[cfg(not(target_os = "linux"))]
pub(super) use other::Timer;

/// A timer of the kernel's that the runtime listens to as to a socket.
#[cfg(target_os = "linux")]
mod linux {
    use std::{io, os::fd::OwnedFd, time::Instant};

    use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
    use tokio::io::{Interest, unix::AsyncFd};

    pub(in super::super) struct Timer(AsyncFd<OwnedFd>);

    impl Timer {
        pub(in super::super) fn new() -> io::Result<Self> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
            // SAFETY: an `OwnedFd` stays what it is until it is dropped, with what owns it here.
            #[expect(unsafe_code, reason = "the runtime wants the word that a descriptor stays open")]
            let timer = unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) }?;
            Ok(Self(timer))
        }

        /// Waits until it is `due`.
        pub(in super::super) async fn until(&self, due: Instant) -> io::Result<()> {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
            let it_value = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            let once = Itimerspec { it_interval, it_value };
            rustix::time::timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &once)?;
            let expired = |timer: &OwnedFd| Ok(rustix::io::read(timer, &mut [0_u8; 8])?);
            self.0.async_io(Interest::READABLE, expired).await.map(drop)
        }
    }
}

/// A thread that sleeps.
#[cfg(not(target_os = "linux"))]
mod other {
    use std::{io, thread, time::Instant};

    pub(in super::super) struct Timer;

    impl Timer {
        pub(in super::super) fn new() -> io::Result<Self> {
            Ok(Self)
        }

        /// Waits until it is `due`.
        pub(in super::super) async fn until(&self, due: Instant) -> io::Result<()> {
            let left = due.saturating_duration_since(Instant::now());
            tokio::task::spawn_blocking(move || thread::sleep(left)).await.map_err(io::Error::other)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::Timer;

    /// A tick of the runtime's own timer would end 0.9 ms later.
    #[tokio::test]
    async fn it_waits_no_less_and_does_not_wait_for_a_tick() {
        let timer = Timer::new().unwrap();
        let mut least = Duration::MAX;
        for _ in 0..50 {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let due = Instant::now() + Duration::from_micros(1100);
            timer.until(due).await.unwrap();
            let now = Instant::now();
            assert!(now >= due);
            least = least.min(now - due);
        }
        assert!(least < Duration::from_micros(500), "{least:?} late at best");
        // What is due already is not waited for.
        timer.until(Instant::now()).await.unwrap();
    }
}
