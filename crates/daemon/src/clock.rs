//! Waiting for a time of day. A timer counts what passes while the machine is awake; the clock on the wall also
//! moves while it sleeps, and when somebody sets it.

use std::time::Duration;

use api_types::jiff::Timestamp;

/// So often the clock is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Returns when `at` has come, at most a minute late.
pub async fn until(at: Timestamp) {
    loop {
        let Ok(left) = Duration::try_from(at.duration_since(Timestamp::now())) else { return };
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LOOK_EVERY)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_has_come_is_not_waited_for() {
        until(Timestamp::now()).await;
        until(Timestamp::MIN).await;
        let soon = Timestamp::now() + Duration::from_millis(20);
        until(soon).await;
        assert!(Timestamp::now() >= soon);
    }
}
