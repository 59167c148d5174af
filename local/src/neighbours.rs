//! Whose process is at the other end of a connection on this machine.
//!
//! Local mode has one user and mostly no sign-in, so what is open to every process on the machine would be
//! open to every account on it. Linux lists every socket with its owner in `/proc/net/tcp`.
//!
//! Source: <https://www.kernel.org/doc/html/latest/networking/proc_net_tcp.html>.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// How often the table is read: it comes in pieces, and a line can be missed while others come and go.
const READS: usize = 3;

/// Whether the process that opened this connection is one of the user whose process this is. `peer` is its
/// end, `own` is ours. Always, where the system is not Linux.
pub(crate) fn is_ours(peer: SocketAddr, own: SocketAddr) -> bool {
    if !cfg!(target_os = "linux") {
        return true;
    }
    let uid = rustix::process::geteuid().as_raw();
    (0..READS).any(|_| owner_now(peer, own) == Some(uid))
}

/// The peer's user id; `None` where no process on this machine has that socket.
fn owner_now(peer: SocketAddr, own: SocketAddr) -> Option<u32> {
    // A socket for both families connects to an IPv4 address and is among those of IPv6.
    ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|file| {
        let table = std::fs::read_to_string(file).ok()?;
        owner(&table, peer, own)
    })
}

/// Who has the socket that is `peer` itself, connected to `own`.
fn owner(table: &str, peer: SocketAddr, own: SocketAddr) -> Option<u32> {
    let forms: [fn(IpAddr) -> IpAddr; 2] = [std::convert::identity, mapped];
    let ends = forms.map(|form| (written(form(peer.ip()), peer), written(form(own.ip()), own)));
    table.lines().skip(1).find_map(|line| {
        // sl, local, remote, state, queues, timer, retransmits, uid, timeout, inode, …
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (local, remote) = (fields.next()?, fields.next()?);
        if !ends
            .iter()
            .any(|(peer, own)| peer == local && own == remote)
        {
            return None;
        }
        let (uid, inode) = (fields.nth(4)?, fields.nth(1)?);
        // A socket that its process has closed belongs to nobody, which is written as root.
        (inode != "0").then(|| uid.parse().ok())?
    })
}

/// The same address, as a socket for both families has it.
fn mapped(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().into(),
        v6 @ IpAddr::V6(_) => v6,
    }
}

/// As the kernel writes it: the address in words of this machine's byte order, and the port.
fn written(address: IpAddr, end: SocketAddr) -> String {
    let word = |bytes: &[u8]| {
        let bytes = <[u8; 4]>::try_from(bytes).unwrap_or_default();
        format!("{:08X}", u32::from_ne_bytes(bytes))
    };
    let words: String = match address {
        IpAddr::V4(v4) => word(&Ipv4Addr::octets(&v4)),
        IpAddr::V6(v6) => v6.octets().chunks(4).map(word).collect(),
    };
    format!("{words}:{:04X}", end.port())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// Port 8787 is 2253, 50000 is C350.
    const TABLE: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:2253 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 11 1 0 100 0 0 10 0
   1: 0100007F:2253 0100007F:C350 01 00000000:00000000 00:00000000 00000000  1000        0 12 1 0 20 4 30 10 -1
   2: 0100007F:C350 0100007F:2253 01 00000000:00000000 00:00000000 00000000 65534        0 13 1 0 20 4 30 10 -1
   3: 0100007F:C351 0100007F:2253 06 00000000:00000000 03:00001000 00000000     0        0 0 3 0
   4: 0100007F:C352 0100007F:22B8 01 00000000:00000000 00:00000000 00000000  1000        0 14 1 0 20 4 30 10 -1
   5: 0100007F:C353
";
    const TABLE6: &str = "\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0000000000000000FFFF00000100007F:C350 0000000000000000FFFF00000100007F:2253 01 00000000:00000000 00:00000000 00000000  1001        0 15 1 0 20 4 30 10 -1
   1: 00000000000000000000000001000000:C351 00000000000000000000000001000000:2253 01 00000000:00000000 00:00000000 00000000  1002        0 16 1 0 20 4 30 10 -1
";

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn the_owner_is_read_from_the_line_of_the_other_end() {
        let own = at("127.0.0.1:8787");
        assert_eq!(owner(TABLE, at("127.0.0.1:50000"), own), Some(65_534));
        assert_eq!(owner(TABLE, own, at("127.0.0.1:50000")), Some(1_000));
        assert_eq!(owner(TABLE6, at("127.0.0.1:50000"), own), Some(1_001));
        let own6 = at("[::1]:8787");
        assert_eq!(owner(TABLE6, at("[::1]:50001"), own6), Some(1_002));
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn a_closed_an_unknown_and_a_cut_off_socket_have_no_owner() {
        let own = at("127.0.0.1:8787");
        for port in [50_001, 50_002, 50_003, 50_004] {
            let peer = SocketAddr::from(([127, 0, 0, 1], port));
            assert_eq!(owner(TABLE, peer, own), None, "{port}");
        }
        assert_eq!(
            owner(TABLE, at("10.0.0.1:50000"), own),
            None,
            "another address"
        );
        assert_eq!(owner("", at("127.0.0.1:50000"), own), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_connection_of_this_process_is_ours_and_a_made_up_one_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap();
        let client = TcpStream::connect(own).unwrap();
        let peer = client.local_addr().unwrap();
        assert!(is_ours(peer, own));
        assert!(!is_ours(peer, at("127.0.0.1:1")));
        drop(client);
        assert!(!is_ours(peer, own), "it was closed");
    }
}
