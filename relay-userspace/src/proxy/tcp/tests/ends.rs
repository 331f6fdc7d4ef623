//! How sessions end: in peace, by a reset, by silence, with the relay.

use std::net::Shutdown;

use super::*;

#[test]
fn a_clean_end_is_no_reset() {
    for host in HOSTS {
        for round in 0..100 {
            let (relay, client, backend) = session(host, Timeouts::default());
            let [first, second] = if round % 2 == 0 { [client, backend] } else { [backend, client] };
            send(&first, b"bye");
            drop(first);
            assert_eq!(read_all(&second), b"bye");
            drop(second);
            relay.wait_for_sessions(0);
        }
    }
}

#[test]
fn a_reset_is_passed_on() {
    for host in HOSTS {
        for round in 0..20 {
            let (relay, client, backend) = session(host, Timeouts::default());
            let [first, second] = if round % 2 == 0 { [client, backend] } else { [backend, client] };
            send(&first, b"x");
            read_exactly(&second, 1);
            reset(first);
            read_to_reset(&second);
            relay.wait_for_sessions(0);
        }
    }
}

#[test]
fn a_reset_is_noticed_while_the_other_side_does_not_read() {
    for host in HOSTS {
        let (relay, client, backend) = session(host, Timeouts::default());
        client.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
        while (&client).write(&[0; 65_536]).is_ok() {}
        reset(client);
        relay.wait_for_sessions(0);
        read_to_reset(&backend);
    }
}

#[test]
fn a_reset_is_noticed_after_the_stream_was_ended() {
    for host in HOSTS {
        // no timer helps
        let connect = Duration::from_secs(60);
        let (relay, client, backend) = session(host, Timeouts { connect, ..Timeouts::default() });
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&backend), b"");
        reset(client);
        relay.wait_for_sessions(0);
        // one that has seen the end of the stream hears of the reset when it writes
        let written = (&backend).write(b"x");
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}

/// As a client without the relay would see it: the answer, then the reset.
#[test]
fn an_answer_before_a_reset_is_delivered() {
    for host in HOSTS {
        for _ in 0..50 {
            let (relay, client, backend) = session(host, Timeouts::default());
            send(&client, b"question");
            read_exactly(&backend, 4);
            send(&backend, b"too long");
            // closed with data unread: a reset
            drop(backend);
            assert_eq!(read_to_reset(&client), b"too long");
            relay.wait_for_sessions(0);
        }
    }
}

#[test]
fn a_backend_that_closes_at_once_ends_the_session() {
    for host in HOSTS {
        let (relay, client, backend) = session(host, Timeouts::default());
        drop(backend);
        assert_eq!(read_all(&client), b"");
        drop(client);
        relay.wait_for_sessions(0);
    }
}

#[test]
fn a_client_that_was_reset_before_it_was_accepted_harms_nobody() {
    for host in HOSTS {
        let backend = listen(host);
        let relay = Relay::to(host, backend.local_addr().unwrap());
        for _ in 0..200 {
            reset(relay.client());
        }
        let client = relay.client();
        send(&client, b"x");
        eventually(|| {
            let accepted = patient(backend.accept().unwrap().0);
            let mut data = [0];
            matches!((&accepted).read(&mut data), Ok(1)) && data == *b"x"
        });
    }
}

#[test]
fn silence_ends_a_session_and_traffic_does_not() {
    for host in HOSTS {
        let idle = Duration::from_secs(1);
        let (relay, client, backend) = session(host, Timeouts { tcp_idle: idle, ..Timeouts::default() });
        let mut last = Instant::now();
        for _ in 0..5 {
            thread::sleep(idle / 4);
            assert!(last.elapsed() < idle, "this machine stood still");
            last = Instant::now();
            send(&backend, b"x");
            read_exactly(&client, 1);
        }
        read_to_reset(&client);
        assert!(last.elapsed() >= idle);
        read_to_reset(&backend);
        relay.wait_for_sessions(0);
    }
}

#[test]
fn a_half_closed_session_may_be_silent_for_less_time() {
    for host in HOSTS {
        let half_close = Duration::from_millis(100);
        let (relay, client, backend) = session(host, Timeouts { half_close, ..Timeouts::default() });
        // not yet half closed
        thread::sleep(2 * half_close);
        let start = Instant::now();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&backend), b"");
        read_to_reset(&client);
        assert!(start.elapsed() >= half_close);
        relay.wait_for_sessions(0);
    }
}

#[test]
fn a_drain_takes_nobody_in_and_ends_with_the_last_session() {
    for host in HOSTS {
        let (relay, client, backend) = session(host, Timeouts::default());
        relay.phase.send_replace(Phase::Drain);
        eventually(|| TcpStream::connect(relay.address).is_err());
        send(&client, b"still");
        assert_eq!(read_exactly(&backend, 5), b"still");
        drop(client);
        assert_eq!(read_all(&backend), b"");
        drop(backend);
        relay.join();
    }
}

/// What holds a port is another descriptor of a worker's socket. Shut down, it resets who has not been accepted.
#[test]
fn who_waits_when_a_drain_begins_is_taken_in_before_the_socket_is_closed() {
    let backend = listen(HOSTS[0]);
    for _ in 0..20 {
        let relay = Relay::to(HOSTS[0], backend.local_addr().unwrap());
        let waiting: Vec<TcpStream> = (0..20).map(|_| relay.client()).collect();
        relay.phase.send_replace(Phase::Drain);
        relay.service.await_closed(Instant::now() + PATIENCE);
        assert!(TcpStream::connect(relay.address).is_err(), "it is closed by now");
        relay.wait_for_sessions(20);
        drop(waiting);
    }
}

#[test]
fn the_end_resets_both_sides() {
    for host in HOSTS {
        let (relay, client, backend) = session(host, Timeouts::default());
        send(&client, b"x");
        read_exactly(&backend, 1);
        relay.phase.send_replace(Phase::Drain);
        relay.phase.send_replace(Phase::End);
        read_to_reset(&client);
        read_to_reset(&backend);
        relay.join();
    }
}
