//! A proxy before etcd that passes requests on and can keep the answers to itself.

use std::sync::Arc;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

/// What is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Everything,
    /// Requests reach etcd, answers reach nobody.
    Requests,
    /// Neither.
    Nothing,
    /// Connections that were not served in full are closed, new ones are.
    Cut,
}

pub struct Proxy {
    pub port: u16,
    mode: Arc<watch::Sender<Mode>>,
}

impl Proxy {
    pub async fn before(etcd_port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mode = Arc::new(watch::Sender::new(Mode::Everything));
        let modes = mode.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(("127.0.0.1", etcd_port)).await else { continue };
                tokio::spawn(connection(client, server, modes.subscribe()));
            }
        });
        Self { port, mode }
    }

    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

async fn connection(client: TcpStream, server: TcpStream, mut mode: watch::Receiver<Mode>) {
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let requests = mode.clone();
    let answers = mode.clone();
    mode.borrow_and_update();
    let cut = async move { while mode.changed().await.is_ok() && *mode.borrow_and_update() != Mode::Cut {} };
    tokio::select! {
        () = pass(from_client, to_server, requests, &[Mode::Everything, Mode::Requests, Mode::Cut]) => {}
        () = pass(from_server, to_client, answers, &[Mode::Everything, Mode::Cut]) => {}
        () = cut => {}
    }
}

/// Bytes that come while the mode does not let them pass are lost.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mode: watch::Receiver<Mode>, passing: &[Mode]) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let passes = passing.contains(&mode.borrow());
        if passes && to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
