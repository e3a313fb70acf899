//! A web server whose handlers send work for the processor to a pool, with a deadline, and stop it when the client goes
//! away.
//!
//! With threads neither is possible: `spawn_blocking` runs to its end, whatever becomes of the request. Here the deadline
//! kills the worker that runs the request, and so does a client that hangs up: the server drops the handler's future.
//!
//! The program is its own test, with a real HTTP client.

#![expect(clippy::print_stdout, reason = "an example prints its results")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use procpool::{Pool, TaskError};

/// For the route with a deadline.
const DEADLINE: Duration = Duration::from_millis(300);

/// Counts primes in the slowest way. Large numbers take longer than any client waits.
fn count_primes(below: u64) -> u64 {
    (2..below).filter(|n| (2..*n).all(|d| n % d != 0)).count() as u64
}

type Answer = (StatusCode, String);

fn answer(result: Result<u64, TaskError>) -> Answer {
    match result {
        Ok(count) => (StatusCode::OK, count.to_string()),
        Err(error @ TaskError::TimedOut { .. }) => (StatusCode::GATEWAY_TIMEOUT, error.to_string()),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// As long as the client waits.
async fn primes(State(pool): State<Arc<Pool>>, Path(below): Path<u64>) -> Answer {
    answer(pool.apply_async((below,), count_primes).cancel_on_drop().await)
}

/// At most until the deadline.
async fn primes_in_time(State(pool): State<Arc<Pool>>, Path(below): Path<u64>) -> Answer {
    answer(pool.timeout(DEADLINE).apply_async((below,), count_primes).cancel_on_drop().await)
}

fn main() -> anyhow::Result<()> {
    procpool::init();
    // One worker, so that a request that is not stopped blocks all others.
    let pool = Arc::new(Pool::new(1)?);
    let runtime = tokio::runtime::Runtime::new()?;

    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
    let address = listener.local_addr()?;
    let routes = Router::new()
        .route("/primes/{below}", get(primes))
        .route("/primes-in-time/{below}", get(primes_in_time))
        .with_state(Arc::clone(&pool));
    let server = runtime.spawn(async move { axum::serve(listener, routes).await });

    let tested = test(address, &pool);
    server.abort();
    drop(runtime);
    tested?;
    pool.close();
    pool.join()?;
    Ok(())
}

/// A client that waits for as long as `patience`, and then closes the connection.
fn ask(address: SocketAddr, path: &str, patience: Duration) -> Result<(u16, String), ureq::Error> {
    let config = ureq::Agent::config_builder().timeout_global(Some(patience)).http_status_as_error(false).build();
    let mut response = ureq::Agent::new_with_config(config).get(format!("http://{address}{path}")).call()?;
    Ok((response.status().as_u16(), response.body_mut().read_to_string()?))
}

fn test(address: SocketAddr, pool: &Pool) -> anyhow::Result<()> {
    let patient = Duration::from_secs(60);
    assert_eq!(ask(address, "/primes/100", patient)?, (200, "25".to_owned()));

    let (status, text) = ask(address, "/primes-in-time/1000000000", patient)?;
    println!("beyond the deadline: {status}: {text}");
    assert_eq!(status, 504);

    assert_eq!(ask(address, "/primes/1000", patient)?, (200, "168".to_owned()));
    let before = pool.pids();
    // Nothing but the client ends this request.
    let hung_up = ask(address, "/primes/1000000000", Duration::from_millis(300));
    assert!(matches!(hung_up, Err(ureq::Error::Timeout(_))), "{hung_up:?}");
    // The only worker would be busy for years.
    assert_eq!(ask(address, "/primes/1000", patient)?, (200, "168".to_owned()));
    println!("the client hung up; worker {before:?} was replaced by {:?}", pool.pids());
    assert_ne!(pool.pids(), before);
    Ok(())
}
