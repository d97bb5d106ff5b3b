//! The loop that attempts deliveries, and the policy of its retries.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{StreamExt, stream::FuturesUnordered};
use rand::{RngExt, rngs::SmallRng};
use tokio::{
    sync::Notify,
    task::{Id, JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{
    Config, Error, endpoints,
    guard::{Answer, Client, Failure},
    shares::{Key, Shares},
    signing::{self, SigningSecret, secret_place},
    store::{self, Attempt, Claim, Claimed, Ended, Next},
};
use crate::{
    clock::Clock,
    db::{Db, is_away},
    id::WebhookSecretId,
    sealed::{MasterKey, Place, Sealed, Unsealable},
};

/// Attempts the deliveries that are due.
///
/// Any number may run, in any number of processes: a claim is a lease in the database.
pub struct Dispatcher {
    db: Db,
    clock: Clock,
    client: Client,
    master_key: Arc<MasterKey>,
    retries: Vec<Duration>,
    concurrency: usize,
    lease: TimeDelta,
    wake: Arc<Notify>,
    rng: Mutex<SmallRng>,
}

impl Dispatcher {
    /// A dispatcher that starts an attempt at once when `wake` is notified after a commit, and soon otherwise.
    ///
    /// # Errors
    ///
    /// [`Error::Client`] when the system's root certificates cannot be read.
    pub fn new(
        db: Db,
        clock: Clock,
        config: &Config,
        master_key: Arc<MasterKey>,
        wake: Arc<Notify>,
        rng: SmallRng,
    ) -> Result<Self, Error> {
        Ok(Self {
            db,
            clock,
            client: Client::new(config.reach(), config.webhook_timeout)?,
            master_key,
            retries: config.webhook_retries.clone(),
            concurrency: config.webhook_concurrency.get().into(),
            lease: time_delta(config.webhook_timeout + LEASE_MARGIN),
            wake,
            rng: Mutex::new(rng),
        })
    }

    /// Attempts what is due at `now`, as much as may be under way at once; returns how many there were, once all are
    /// recorded.
    ///
    /// # Errors
    ///
    /// [`Error::Database`] when nothing could be claimed.
    pub async fn tick(&self, now: DateTime<Utc>) -> Result<usize, Error> {
        let shares = Shares::new(self.concurrency);
        loop {
            let Claim { deliveries, moved } = self.claim(now, &shares).await?;
            if deliveries.is_empty() && moved {
                continue;
            }
            let count = deliveries.len();
            let attempts = deliveries
                .into_iter()
                .map(|delivery| self.attempt(delivery));
            let attempts: FuturesUnordered<_> = attempts.collect();
            attempts
                .ready_chunks(count.max(1))
                .for_each(|ended| self.record(ended))
                .await;
            return Ok(count);
        }
    }

    /// Attempts deliveries as they become due, until `shutdown`; then finishes those that are under way.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let mut under_way = UnderWay::new(self.concurrency);
        let mut away = false;
        loop {
            let ended = under_way.ended(self.clock.now());
            if !ended.is_empty() {
                self.record(ended).await;
            }
            let mut look_again = false;
            // Read once: told between two readings, it would wait for nothing.
            let stopping = shutdown.is_cancelled();
            if !stopping {
                let now = self.clock.now();
                match self.claim(now, &under_way.shares).await {
                    Ok(claim) => {
                        away = false;
                        look_again = claim.moved;
                        for delivery in claim.deliveries {
                            under_way.begin(&self, delivery, now);
                        }
                    }
                    Err(cause) if !std::mem::replace(&mut away, true) => {
                        warn!(error = %cause, "cannot claim webhook deliveries, trying on: {cause}");
                    }
                    Err(_) => {} // said already
                }
            } else if under_way.is_empty() {
                return;
            }
            if look_again {
                continue;
            }
            tokio::select! {
                () = under_way.one_ended() => {}
                () = shutdown.cancelled(), if !stopping => {}
                () = self.wake.notified(), if !stopping => {}
                () = tokio::time::sleep(POLL), if !stopping => {}
            }
        }
    }

    async fn claim(&self, now: DateTime<Utc>, shares: &Shares) -> Result<Claim, Error> {
        let room = shares.room(now);
        if room.free == 0 {
            return Ok(Claim {
                deliveries: Vec::new(),
                moved: false,
            });
        }
        let start = self.random(|rng| rng.random_range(i32::MIN + 1..=i32::MAX));
        let mut system = self.db.system().await?;
        Ok(store::claim(&mut system, now, now + self.lease, &room, start).await?)
    }

    /// Makes one attempt.
    async fn attempt(&self, delivery: Claimed) -> Ended {
        let at = self.clock.now();
        let result = self.send(&delivery, at).await;
        let now = self.clock.now();
        let jitter = self.random(|rng| rng.random::<f64>());
        let next = next(&result, delivery.try_number, &self.retries, now, jitter);
        let counts = !matches!(result, Err(Trouble::Unsigned));
        let attempt = outcome(result, at, now);
        log(&delivery, &attempt, next);
        Ended {
            delivery,
            attempt,
            next,
            counts,
        }
    }

    /// Records attempts. One that cannot be recorded is due again when its lease ends.
    async fn record(&self, ended: Vec<Ended>) {
        let (gone, others): (Vec<_>, Vec<_>) =
            ended.into_iter().partition(|one| one.next == Next::Gone);
        if let Err(cause) = self.record_all(&others).await {
            // What one of them has, the others are not to suffer from.
            for one in others
                .chunks(1)
                .filter(|_| others.len() > 1 && !is_away(&cause))
            {
                if let Err(cause) = self.record_all(one).await {
                    error!(delivery.id = %one[0].delivery.id, error = %cause, "cannot record a webhook attempt: {cause}");
                }
            }
            if others.len() == 1 || is_away(&cause) {
                error!(count = others.len(), error = %cause, "cannot record webhook attempts: {cause}");
            }
        }
        for one in &gone {
            let recorded = async {
                let mut system = self.db.system().await?;
                store::record_gone(&mut system, one, self.clock.now()).await
            };
            match recorded.await {
                Ok(true) => {}
                Ok(false) => outlived(one),
                Err(cause) => {
                    error!(delivery.id = %one.delivery.id, error = %cause, "cannot record a webhook attempt: {cause}");
                }
            }
        }
    }

    async fn record_all(&self, ended: &[Ended]) -> sqlx::Result<()> {
        if ended.is_empty() {
            return Ok(());
        }
        let now = self.clock.now();
        let mut system = self.db.system().await?;
        let recorded = store::record(&mut system, ended, now, now - FAILING_FOR).await?;
        for one in ended {
            if !recorded.deliveries.contains(&one.delivery.id) {
                outlived(one);
            }
        }
        for endpoint in recorded.failing {
            let last = ended
                .iter()
                .find(|one| one.delivery.endpoint_id == endpoint && one.next != Next::Delivered);
            if let Some(last) = last
                && store::record_failing(&mut system, last, now).await?
            {
                let Claimed {
                    receiver, app_id, ..
                } = &last.delivery;
                warn!(
                    endpoint.id = %endpoint, app.id = %app_id, receiver,
                    "webhook endpoint at {receiver} has failed for too long and is disabled"
                );
            }
        }
        Ok(())
    }

    fn random<T>(&self, draw: impl FnOnce(&mut SmallRng) -> T) -> T {
        draw(&mut self.rng.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn send(&self, delivery: &Claimed, at: DateTime<Utc>) -> Result<Answer, Trouble> {
        let secrets = self
            .secrets(delivery)
            .inspect_err(|cause| error!(app.id = %delivery.app_id, error = %cause, "cannot sign webhooks: {cause}"))
            .map_err(|_| Trouble::Unsigned)?;
        let id = delivery.event_id.to_string();
        let headers = signing::headers(&secrets, &id, at, delivery.body.as_bytes())
            .map_err(|_| Trouble::Unsigned)?;
        Ok(self
            .client
            .post_json(&delivery.url, headers, delivery.body.clone())
            .await?)
    }

    /// What signs a delivery.
    fn secrets(&self, delivery: &Claimed) -> Result<Vec<SigningSecret>, Unsealable> {
        let open = |sealed: &[u8], place: &Place<'_>| {
            Sealed::<SigningSecret>::from_stored(sealed.to_vec()).open(&self.master_key, place)
        };
        let of_rooms = delivery.room_webhook_secret.iter();
        let of_rooms = of_rooms.map(|sealed| open(sealed, &secret_place(&delivery.app_id)));
        let others = delivery.secrets.iter().map(|stored| {
            let (id, sealed) = stored.split_first_chunk().ok_or(Unsealable::Damaged)?;
            let id = WebhookSecretId::from_bytes(*id);
            open(sealed, &endpoints::secret_place(&id))
        });
        of_rooms.chain(others).collect()
    }
}

fn outlived(ended: &Ended) {
    warn!(delivery.id = %ended.delivery.id, "a webhook attempt outlived its lease and was not recorded");
}

/// The attempts that run, and those that ended and are to be recorded.
struct UnderWay {
    tasks: JoinSet<Ended>,
    /// Whom each task sends to.
    receivers: HashMap<Id, Key>,
    shares: Shares,
    ended: Vec<Result<(Id, Ended), JoinError>>,
}

impl UnderWay {
    fn new(places: usize) -> Self {
        Self {
            tasks: JoinSet::new(),
            receivers: HashMap::new(),
            shares: Shares::new(places),
            ended: Vec::new(),
        }
    }

    fn is_empty(&self) -> bool {
        self.tasks.is_empty() && self.ended.is_empty()
    }

    fn begin(&mut self, dispatcher: &Arc<Dispatcher>, delivery: Claimed, now: DateTime<Utc>) {
        let key = (delivery.app_id, delivery.receiver.clone());
        self.shares.begin(key.clone(), now);
        let dispatcher = dispatcher.clone();
        let task = self
            .tasks
            .spawn(async move { dispatcher.attempt(delivery).await });
        self.receivers.insert(task.id(), key);
    }

    /// Returns once one ended, if there are any.
    async fn one_ended(&mut self) {
        match self.tasks.join_next_with_id().await {
            Some(ended) => self.ended.push(ended),
            None => std::future::pending().await,
        }
    }

    /// Those that ended since the last time.
    fn ended(&mut self, now: DateTime<Utc>) -> Vec<Ended> {
        while let Some(ended) = self.tasks.try_join_next_with_id() {
            self.ended.push(ended);
        }
        let mut all = Vec::with_capacity(self.ended.len());
        for ended in self.ended.drain(..) {
            let (id, ended) = match ended {
                Ok((id, ended)) => (id, Some(ended)),
                Err(cause) => {
                    error!(error = %cause, "a webhook attempt panicked");
                    (cause.id(), None)
                }
            };
            if let Some(key) = self.receivers.remove(&id) {
                let answered = ended
                    .as_ref()
                    .is_some_and(|one| one.attempt.status.is_some());
                self.shares.end(&key, answered, now);
            }
            all.extend(ended);
        }
        all
    }
}

/// Why an attempt got no answer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Failure(#[from] Failure),
    #[error("the delivery could not be signed; the operator of this server has been told")]
    Unsigned,
}

/// Delay before the next try after attempt number `attempt` (from 1); `None` gives up. `jitter` is in 0..1.
pub fn retry_delay(schedule: &[Duration], attempt: i32, jitter: f64) -> Option<Duration> {
    let index = usize::try_from(attempt.checked_sub(1)?).ok()?;
    schedule
        .get(index)
        .map(|delay| delay.mul_f64(1.0 + JITTER * jitter))
}

/// How long a `Retry-After` header (RFC 9110, section 10.2.3) asks to wait: seconds, or a date.
fn retry_after(header: &str, now: DateTime<Utc>) -> Option<Duration> {
    let header = header.trim();
    if header.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than fit are more than the bound.
        return (!header.is_empty())
            .then(|| Duration::from_secs(header.parse().unwrap_or(u64::MAX)));
    }
    let date = DateTime::parse_from_rfc2822(header).ok()?;
    (date.to_utc() - now).to_std().ok()
}

/// What follows from an attempt: 2xx is success, 410 the end of the endpoint, and everything else is tried again.
fn next(
    result: &Result<Answer, Trouble>,
    attempt: i32,
    schedule: &[Duration],
    now: DateTime<Utc>,
    jitter: f64,
) -> Next {
    let asked = match result {
        Ok(Answer {
            status: 200..=299, ..
        }) => return Next::Delivered,
        Ok(Answer { status: 410, .. }) => return Next::Gone,
        Ok(answer) => answer
            .retry_after
            .as_deref()
            .and_then(|header| retry_after(header, now)),
        Err(_) => None,
    };
    match retry_delay(schedule, attempt, jitter) {
        Some(delay) => {
            let delay = delay.max(asked.unwrap_or_default().min(LONGEST_RETRY_AFTER));
            Next::Retry {
                at: now + time_delta(delay),
                holds_line: attempt < HOLDING_ATTEMPTS,
            }
        }
        None => Next::Failed,
    }
}

/// The attempt as it is recorded.
fn outcome(result: Result<Answer, Trouble>, at: DateTime<Utc>, now: DateTime<Utc>) -> Attempt {
    let (status, answer, error) = match result {
        Ok(Answer { status, body, .. }) => {
            let error = match status {
                200..=299 => None,
                300..=399 => Some(format!("answered {status}, and redirects are not followed")),
                410 => Some("answered 410 Gone: the endpoint is disabled".to_owned()),
                _ => Some(format!("answered {status}, and only 2xx is success")),
            };
            (Some(status), Some(body), error)
        }
        Err(trouble) => (None, None, Some(trouble.to_string())),
    };
    Attempt {
        at,
        latency: now - at,
        status,
        answer,
        error,
    }
}

/// Names the receiver by host and port: the rest of its URL may hold a secret.
fn log(delivery: &Claimed, attempt: &Attempt, next: Next) {
    let Claimed {
        id,
        event_id: event,
        meeting_id,
        receiver,
        attempt: number,
        ..
    } = delivery;
    let meeting = meeting_id.map(tracing::field::display);
    let (latency_ms, status) = (attempt.latency.num_milliseconds(), attempt.status);
    let reason = attempt.error.as_deref().unwrap_or_default();
    match next {
        Next::Delivered => debug!(
            delivery.id = %id, event.id = %event, meeting.id = meeting, receiver, attempt = number, status, latency_ms,
            "webhook delivered to {receiver}"
        ),
        Next::Retry { at, .. } => info!(
            delivery.id = %id, event.id = %event, meeting.id = meeting, receiver, attempt = number, status, latency_ms, retry_at = %at,
            "webhook to {receiver} failed: {reason}"
        ),
        Next::Failed => warn!(
            delivery.id = %id, event.id = %event, meeting.id = meeting, receiver, attempt = number, status, latency_ms,
            "webhook to {receiver} failed for the last time: {reason}"
        ),
        Next::Gone => warn!(
            delivery.id = %id, event.id = %event, meeting.id = meeting, endpoint.id = %delivery.endpoint_id, receiver, attempt = number, status,
            latency_ms, "webhook endpoint at {receiver} is gone and gets nothing more"
        ),
    }
}

fn time_delta(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}

/// How long a due delivery may wait where nobody is notified: for what another process committed, and for retries.
const POLL: Duration = Duration::from_millis(200);
/// How much longer than an attempt its claim lasts: time to record it, also on a slow database.
const LEASE_MARGIN: Duration = Duration::from_secs(20);
/// How many attempts a failing delivery keeps the later ones of its line waiting: about 5 minutes by the default schedule.
const HOLDING_ATTEMPTS: i32 = 3;
/// A delay gets up to this part of itself more, so that what failed together is not retried together.
const JITTER: f64 = 0.1;
/// Longest wait that a receiver can ask for: the line may wait as well.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);
/// For how long nothing may succeed at an endpoint before it is disabled.
const FAILING_FOR: TimeDelta = TimeDelta::days(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000, 0).unwrap()
    }

    fn answered(status: u16, retry_after: Option<&str>) -> Result<Answer, Trouble> {
        Ok(Answer {
            status,
            retry_after: retry_after.map(str::to_owned),
            body: String::new(),
        })
    }

    fn schedule() -> Vec<Duration> {
        [5, 300, 1800].map(Duration::from_secs).to_vec()
    }

    /// Seconds until the retry, and whether the line waits.
    fn retry(result: &Result<Answer, Trouble>, attempt: i32) -> Option<(i64, bool)> {
        match next(result, attempt, &schedule(), now(), 0.0) {
            Next::Retry { at, holds_line } => Some(((at - now()).num_seconds(), holds_line)),
            _ => None,
        }
    }

    #[test]
    fn delays_follow_the_schedule_with_at_most_a_tenth_more_and_then_end() {
        let delays: Vec<_> = (1..=4)
            .map(|attempt| retry_delay(&schedule(), attempt, 0.0))
            .collect();
        assert_eq!(
            delays,
            [5, 300, 1800]
                .map(|s| Some(Duration::from_secs(s)))
                .into_iter()
                .chain([None])
                .collect::<Vec<_>>()
        );
        assert_eq!(
            retry_delay(&schedule(), 2, 0.5),
            Some(Duration::from_secs(315))
        );
        for attempt in [i32::MIN, -1, 0, i32::MAX] {
            assert_eq!(retry_delay(&schedule(), attempt, 0.5), None, "{attempt}");
        }
    }

    #[test]
    fn only_2xx_is_success() {
        for status in [200, 201, 202, 204, 299] {
            assert_eq!(
                next(&answered(status, None), 1, &schedule(), now(), 0.0),
                Next::Delivered,
                "{status}"
            );
        }
        for status in [
            199, 300, 301, 302, 307, 308, 400, 401, 404, 409, 429, 500, 503, 999,
        ] {
            assert_eq!(
                retry(&answered(status, None), 1),
                Some((5, true)),
                "{status}"
            );
        }
        assert_eq!(
            retry(&Err(Failure::Timeout(Duration::from_secs(10)).into()), 1),
            Some((5, true))
        );
    }

    #[test]
    fn a_failing_delivery_holds_its_line_for_three_attempts() {
        let failed = answered(500, None);
        assert_eq!(
            [1, 2, 3].map(|attempt| retry(&failed, attempt)),
            [Some((5, true)), Some((300, true)), Some((1800, false))]
        );
    }

    #[test]
    fn the_schedule_ends_in_failure_and_410_at_once() {
        assert_eq!(
            next(&answered(500, None), 4, &schedule(), now(), 0.0),
            Next::Failed
        );
        assert_eq!(
            next(&answered(410, None), 1, &schedule(), now(), 0.0),
            Next::Gone
        );
    }

    #[test]
    fn retry_after_postpones_within_an_hour_and_never_hastens() {
        for (header, seconds) in [
            ("60", 60),
            (" 60 ", 60),
            ("1", 5),
            ("0", 5),
            ("7200", 3600),
            ("99999999999999999999999999", 3600),
            ("Tue, 14 Nov 2023 22:14:20 GMT", 60),
            ("Tue, 14 Nov 2023 22:13:19 GMT", 5),
            ("Fri, 14 Nov 2053 22:13:20 GMT", 3600),
            ("", 5),
            ("-60", 5),
            ("soon", 5),
        ] {
            assert_eq!(
                retry(&answered(503, Some(header)), 1),
                Some((seconds, true)),
                "{header:?}"
            );
        }
        assert_eq!(
            next(&answered(503, Some("60")), 4, &schedule(), now(), 0.0),
            Next::Failed
        );
    }

    #[test]
    fn what_is_recorded_says_why_it_failed() {
        let ended = now() + TimeDelta::milliseconds(42);
        let recorded = outcome(answered(301, None), now(), ended);
        assert_eq!(
            (recorded.status, recorded.latency),
            (Some(301), TimeDelta::milliseconds(42))
        );
        assert_eq!(
            recorded.error.as_deref(),
            Some("answered 301, and redirects are not followed")
        );
        assert_eq!(outcome(answered(204, None), now(), ended).error, None);
        let refused = outcome(
            Err(Failure::Timeout(Duration::from_secs(10)).into()),
            now(),
            ended,
        );
        assert_eq!(
            (refused.status, refused.error.as_deref()),
            (None, Some("no answer within 10s"))
        );
    }
}
