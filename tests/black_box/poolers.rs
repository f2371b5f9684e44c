//! Connection poolers between the server and Postgres.

use qrlogin::postgres::Postgres;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::program::{qrlogin, run};

/// Which session of Postgres a connection's statements run in.
#[derive(Debug, Clone, Copy)]
enum Pooling {
    /// A session of its own, as with Postgres itself.
    Session,
    /// The session that is free, which here is the same for all connections.
    Transaction,
    /// Another session for each statement, as with a busy pooler.
    Busy,
}

/// Starts a pooler and returns its URL. It speaks as much of Postgres's protocol as a simple query with one text as its
/// result needs.
async fn pooler(pooling: Pooling) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://u:hunter2@{}/d?sslmode=disable", listener.local_addr().unwrap());
    tokio::spawn(async move {
        for connection in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(stream, pooling, connection));
        }
    });
    url
}

async fn serve(mut stream: TcpStream, pooling: Pooling, connection: usize) -> std::io::Result<()> {
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
        };
        let session = session.to_string();
        let mut answer = Vec::new();
        let mut say = |kind: u8, body: &[u8]| {
            answer.push(kind);
            answer.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
            answer.extend(body);
        };
        say(b'T', b"\0\x01concat\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0");
        let value_length = u32::try_from(session.len()).unwrap().to_be_bytes();
        say(b'D', &[b"\0\x01", &value_length[..], session.as_bytes()].concat());
        say(b'C', b"SELECT 1\0");
        say(b'Z', b"I");
        stream.write_all(&answer).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pooler_in_transaction_mode_is_refused() {
    for pooling in [Pooling::Transaction, Pooling::Busy] {
        let url = pooler(pooling).await;
        let refused = tokio::task::spawn_blocking(move || {
            let dir = tempfile::tempdir().unwrap();
            let listen = ["--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0"];
            run(&mut qrlogin(dir.path(), &[&["serve", "--database-url", &url], &listen[..]].concat()))
        });
        let (status, _, stderr) = refused.await.unwrap();
        assert_eq!(status.code(), Some(1), "{pooling:?}: {stderr}");
        for part in ["database_url", "PgBouncer", "transaction mode", "pool_mode=session"] {
            assert!(stderr.contains(part), "{pooling:?}: {stderr}");
        }
        assert!(!stderr.contains("hunter2"), "{stderr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pooler_in_session_mode_is_accepted() {
    let url = pooler(Pooling::Session).await;
    assert_eq!(Postgres::parse(&url).unwrap().check_sessions().await, Ok(()));
}
