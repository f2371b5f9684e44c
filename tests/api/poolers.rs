//! Connection poolers between the server and Postgres.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use qrlogin_testing::program::{Program, qrlogin, run};
use qrlogin_testing::services::{PgBouncer, Postgres, connect};
use qrlogin_testing::test;

/// The session of Postgres in which a connection's statements run.
#[derive(Debug, Clone, Copy)]
enum Pooling {
    /// A session of its own, as with Postgres itself.
    Session,
    /// The session that is free, which here is the same for all connections.
    Transaction,
    /// Another session for each statement, as with a busy pooler.
    Busy,
    /// The next of this number of sessions for each statement of any connection.
    InTurn(usize),
}

/// Starts a pooler and returns its URL. It implements the part of Postgres's protocol that a simple query with one text as
/// its result needs.
async fn pooler(pooling: Pooling) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://u:hunter2@{}/d?sslmode=disable", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let statements = Arc::new(AtomicUsize::new(0));
        for connection in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(stream, pooling, connection, statements.clone()));
        }
    });
    url
}

async fn serve(
    mut stream: TcpStream,
    pooling: Pooling,
    connection: usize,
    statements: Arc<AtomicUsize>,
) -> std::io::Result<()> {
    let length = stream.read_u32().await?;
    stream.read_exact(&mut vec![0; length as usize - 4]).await?;
    stream.write_all(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I").await?;
    for query in 0.. {
        let kind = stream.read_u8().await?;
        let length = stream.read_u32().await?;
        stream.read_exact(&mut vec![0; length as usize - 4]).await?;
        if kind != b'Q' {
            return Ok(());
        }
        let session = match pooling {
            Pooling::Session => connection,
            Pooling::Transaction => 7,
            Pooling::Busy => connection + 2 * query,
            Pooling::InTurn(count) => statements.fetch_add(1, Ordering::Relaxed) % count,
        };
        let session = session.to_string();
        let mut answer = Vec::new();
        let mut send = |kind: u8, body: &[u8]| {
            answer.push(kind);
            answer.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
            answer.extend(body);
        };
        send(b'T', b"\0\x01session\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0");
        let value_length = u32::try_from(session.len()).unwrap().to_be_bytes();
        send(b'D', &[b"\0\x01", &value_length[..], session.as_bytes()].concat());
        send(b'C', b"SELECT 1\0");
        send(b'Z', b"I");
        stream.write_all(&answer).await?;
    }
    Ok(())
}

#[test]
async fn pooler_in_transaction_mode_is_refused() {
    for pooling in [
        Pooling::Transaction,
        Pooling::Busy,
        Pooling::InTurn(2),
        Pooling::InTurn(3),
        Pooling::InTurn(4),
        Pooling::InTurn(5),
    ] {
        let stderr = refused(pooler(pooling).await).await;
        assert!(names_the_pooler(&stderr), "{pooling:?}: {stderr}");
        assert!(!stderr.contains("hunter2"), "{stderr}");
    }
}

#[test(needs(Postgres, PgBouncer))]
async fn pgbouncer_is_accepted_in_session_mode_alone() {
    let postgres = Postgres::shared().await;
    for settings in
        ["pool_mode = transaction", "pool_mode = statement", "pool_mode = transaction\nserver_round_robin = 1"]
    {
        let pooler = PgBouncer::start(&postgres, settings);
        let url = pooler.url(&postgres.database().await).await;
        // Two more sessions of Postgres are open and free.
        let others = [connect(&url).await.unwrap(), connect(&url).await.unwrap()];
        for client in &others {
            client.batch_execute("SELECT 1").await.unwrap();
        }
        for _ in 0..3 {
            let stderr = refused(url.clone()).await;
            assert!(names_the_pooler(&stderr), "{settings}: {stderr}");
        }
    }
    let pooler = PgBouncer::start(&postgres, "pool_mode = session");
    let dir = tempfile::tempdir().unwrap();
    let url = pooler.url(&postgres.database().await).await;
    let program = Program::serve_with(&dir, "info", &[("QRLOGIN_DATABASE_URL", url.as_str())]);
    program.generate().await;
    assert!(program.terminate().0.success());
}

#[test]
async fn server_that_accepts_and_does_not_answer_ends_the_start_with_an_error() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stderr = refused(format!("postgres://u:hunter2@{}/d?sslmode=disable", silent.local_addr().unwrap())).await;
    assert!(stderr.contains("database_url") && !stderr.contains("hunter2"), "{stderr}");
}

/// Returns the error output of the program, which ends because of this database.
async fn refused(url: String) -> String {
    let ended = tokio::task::spawn_blocking(move || {
        let dir = tempfile::tempdir().unwrap();
        let listen = ["--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0"];
        run(&mut qrlogin(dir.path(), &[&["serve", "--database-url", &url], &listen[..]].concat()))
    });
    let (status, _, stderr) = ended.await.unwrap();
    assert_eq!(status.code(), Some(1), "{stderr}");
    stderr
}

fn names_the_pooler(text: &str) -> bool {
    ["database_url", "PgBouncer", "transaction mode", "pool_mode=session"].iter().all(|part| text.contains(part))
}

#[test]
async fn pooler_in_session_mode_is_not_reported() {
    // The pooler of this test closes a connection at the first prepared statement, so the start fails after the check.
    let stderr = refused(pooler(Pooling::Session).await).await;
    assert!(stderr.contains("database_url") && !names_the_pooler(&stderr), "{stderr}");
    assert!(!stderr.contains("hunter2"), "{stderr}");
}
