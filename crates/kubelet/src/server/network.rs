//! Connections from inside a pod's network namespace.

use std::{
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsFd,
    time::Duration,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::{net::TcpStream, sync::oneshot};

use super::port_forward::Dial;

const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// The network that a process lives in.
#[derive(Clone, Copy, Debug)]
pub struct NetworkOf {
    pub pid: u32,
}

impl Dial for NetworkOf {
    type Connection = TcpStream;

    /// To `localhost` there, as upstream's runtimes do.
    async fn dial(&self, port: u16) -> io::Result<TcpStream> {
        let (answer, answered) = oneshot::channel();
        let pid = self.pid;
        // A thread of its own, as it can never be used for anything else once it has moved.
        std::thread::Builder::new().name("port-forward".to_owned()).spawn(move || {
            // The caller may have gone meanwhile.
            let _ = answer.send(dial_there(pid, port));
        })?;
        let stream = answered.await.map_err(|_| io::Error::other("the dialling thread died"))??;
        stream.set_nonblocking(true)?;
        TcpStream::from_std(stream)
    }
}

fn dial_there(pid: u32, port: u16) -> io::Result<std::net::TcpStream> {
    let namespace = File::open(format!("/proc/{pid}/ns/net"))?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    let dial = |ip: IpAddr| std::net::TcpStream::connect_timeout(&SocketAddr::new(ip, port), DIAL_TIMEOUT);
    // The first error is told: IPv6 is often not there at all.
    dial(Ipv4Addr::LOCALHOST.into()).or_else(|error| dial(Ipv6Addr::LOCALHOST.into()).map_err(|_| error))
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncReadExt, net::TcpListener};

    use super::*;

    #[tokio::test]
    async fn our_own_network_can_be_dialled() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let network = NetworkOf { pid: std::process::id() };
        // Entering a namespace, even one's own, takes privileges that a test run may lack.
        let mut dialled = match network.dial(port).await {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return eprintln!("skipped: {error}"),
            dialled => dialled.unwrap(),
        };
        drop(listener.accept().await.unwrap());
        assert_eq!(dialled.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_process_that_is_gone_is_an_error() {
        assert!(NetworkOf { pid: u32::MAX }.dial(1).await.is_err());
    }
}
