//! A way from containers on this machine to the embedded services, which listen on loopback alone.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};

/// An address that a network outside this machine does not reach: loopback, or of 172.16.0.0/12, where
/// Docker puts its bridges.
///
/// # Errors
/// What to give instead.
pub fn bridge(text: &str) -> Result<Ipv4Addr, String> {
    let address: Ipv4Addr = text.parse().map_err(|_| "not an IPv4 address")?;
    let [a, b, ..] = address.octets();
    let docker = a == 172 && (16..32).contains(&b);
    match address.is_loopback() || docker {
        true => Ok(address),
        false => Err("give the Docker bridge's address (172.17.0.1), or 127.0.0.1".to_owned()),
    }
}

/// Passes every connection to `bridge`, on ports from `first` on, to the address in that place.
///
/// # Errors
/// When one of the ports is in use, or the address is not this machine's.
pub async fn open(bridge: Ipv4Addr, first: u16, to: &[SocketAddr]) -> std::io::Result<()> {
    for (port, &to) in (first..).zip(to) {
        let listener = TcpListener::bind((bridge, port)).await?;
        tokio::spawn(relay(listener, to));
    }
    Ok(())
}

async fn relay(listener: TcpListener, to: SocketAddr) {
    while let Ok((mut from, _)) = listener.accept().await {
        tokio::spawn(async move {
            if let Ok(mut service) = TcpStream::connect(to).await {
                // Either side may hang up at any time.
                copy_bidirectional(&mut from, &mut service).await.ok();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_services_are_never_opened_to_a_network() {
        for address in ["127.0.0.1", "172.17.0.1", "172.31.0.1"] {
            assert!(bridge(address).is_ok(), "{address}");
        }
        for address in [
            "0.0.0.0",
            "192.168.1.5",
            "10.0.0.1",
            "172.32.0.1",
            "8.8.8.8",
            "::1",
            "x",
        ] {
            assert!(bridge(address).is_err(), "{address}");
        }
    }
}
