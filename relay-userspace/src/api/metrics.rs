//! OpenMetrics text, made from the same views that the API answers: nothing is counted twice.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode as encode_text;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::view::{
    AlertView, BackendView, PortView, QuotaView, RuleView, StatusView, TermsView, TrafficView,
};
use crate::health::saved::BackendOrder;

/// All metrics.
pub fn encode(views: Views) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(views));
    let mut text = String::new();
    encode_text(&mut text, &registry)?;
    Ok(text)
}

/// What they are made of.
#[derive(Debug, Default)]
pub struct Views {
    pub rules: Vec<RuleView>,
    pub alerts: Vec<AlertView>,
    pub status: StatusView,
    pub terms: Vec<TermsView>,
    /// By rule, of those that count theirs.
    pub ports: Vec<(String, Vec<PortView>)>,
}

type Encoded = Result<(), std::fmt::Error>;

impl Collector for Views {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Encoded {
        let bytes = "Bytes on the client leg: of IP packets or of payload, as relay_rule_unit says";
        self.by_direction(&mut encoder, "relay_rule_bytes", Some(&Unit::Bytes), bytes, |traffic| {
            traffic.bytes
        })?;
        let packets = "Packets on the client leg";
        self.by_direction(&mut encoder, "relay_rule_packets", None, packets, |traffic| traffic.packets)?;
        self.lifetime(&mut encoder)?;
        self.ports(&mut encoder)?;
        self.units(&mut encoder)?;
        self.quotas(&mut encoder)?;
        self.ends(&mut encoder)?;
        self.flows(&mut encoder)?;
        self.drops(&mut encoder)?;
        self.planes(&mut encoder)?;
        self.states(&mut encoder)?;
        self.backends(&mut encoder)?;
        self.backend_flows(&mut encoder)?;
        self.probes(&mut encoder)?;
        self.round_trips(&mut encoder)?;
        self.backend_failures(&mut encoder)?;
        self.backend_pools(&mut encoder)?;
        self.alerts(&mut encoder)?;
        self.daemon(&mut encoder)
    }
}

impl Views {
    fn by_direction(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        unit: Option<&Unit>,
        help: &str,
        value: impl Fn(&TrafficView) -> u64,
    ) -> Encoded {
        // the encoder appends the unit to the name by itself
        let name = if unit.is_some() { name.trim_end_matches("_bytes") } else { name };
        let mut metric = encoder.encode_descriptor(name, help, unit, MetricType::Counter)?;
        for rule in &self.rules {
            let counters = &rule.counters;
            for (direction, traffic) in [("ingress", &counters.ingress), ("egress", &counters.egress)] {
                counter(&mut metric, &[("rule", &rule.name), ("direction", direction)], value(traffic))?;
            }
        }
        Ok(())
    }

    fn lifetime(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let help = "Bytes that rules of this name have ever carried, over restarts, reboots and edits";
        let unit = Some(&Unit::Bytes);
        let mut metric = encoder.encode_descriptor("relay_rule_lifetime", help, unit, MetricType::Counter)?;
        for rule in &self.rules {
            let lifetime = &rule.counters.lifetime;
            for (direction, traffic) in [("ingress", lifetime.ingress), ("egress", lifetime.egress)] {
                counter(&mut metric, &[("rule", &rule.name), ("direction", direction)], traffic.bytes)?;
            }
        }
        Ok(())
    }

    fn ports(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let help =
            "Bytes that ports of rules with count_ports have ever carried, over restarts, reboots and edits";
        let unit = Some(&Unit::Bytes);
        let mut metric = encoder.encode_descriptor("relay_port", help, unit, MetricType::Counter)?;
        for (rule, ports) in &self.ports {
            for view in ports {
                let (port, lifetime) = (view.port.to_string(), &view.lifetime);
                for (direction, traffic) in [("ingress", lifetime.ingress), ("egress", lifetime.egress)] {
                    let labels = [("rule", &**rule), ("port", &port), ("direction", direction)];
                    counter(&mut metric, &labels, traffic.bytes)?;
                }
            }
        }
        Ok(())
    }

    fn quotas(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let help = "How many bytes a quota allows in its period";
        self.quota(encoder, "relay_quota", help, |quota| quota.limit_bytes)?;
        let help = "How many of a quota's bytes are used";
        self.quota(encoder, "relay_quota_used", help, |quota| quota.used_bytes)
    }

    fn quota(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        value: impl Fn(&QuotaView) -> u64,
    ) -> Encoded {
        let mut metric = encoder.encode_descriptor(name, help, Some(&Unit::Bytes), MetricType::Gauge)?;
        for (terms, quota) in self.terms.iter().filter_map(|terms| Some((terms, terms.quota.as_ref()?))) {
            gauge(&mut metric, &[("kind", &terms.kind), ("name", &terms.name)], value(quota))?;
        }
        Ok(())
    }

    fn ends(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let help = "When a rule or group ends, in seconds since 1970";
        let unit = Some(&Unit::Seconds);
        let mut metric =
            encoder.encode_descriptor("relay_expiry_timestamp", help, unit, MetricType::Gauge)?;
        for (terms, end) in self.terms.iter().filter_map(|terms| Some((terms, terms.expires.as_ref()?))) {
            gauge(&mut metric, &[("kind", &terms.kind), ("name", &terms.name)], end.time)?;
        }
        Ok(())
    }

    fn units(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let help = "What the rule's bytes are: ip (of IP packets), or payload where no eBPF counts them";
        let mut metric = encoder.encode_descriptor("relay_rule_unit", help, None, MetricType::Gauge)?;
        for rule in &self.rules {
            gauge(&mut metric, &[("rule", &rule.name), ("unit", &rule.counters.unit)], 1)?;
        }
        Ok(())
    }

    fn flows(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let mut total =
            encoder.encode_descriptor("relay_rule_flows", "Flows opened", None, MetricType::Counter)?;
        for rule in &self.rules {
            counter(&mut total, &[("rule", &rule.name)], rule.counters.flows.total)?;
        }
        let mut active =
            encoder.encode_descriptor("relay_rule_active_flows", "Live flows", None, MetricType::Gauge)?;
        for rule in &self.rules {
            gauge(&mut active, &[("rule", &rule.name)], rule.counters.flows.active)?;
        }
        Ok(())
    }

    fn drops(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let help = "Packets refused, by reason; those that belong to no rule have an empty rule";
        let mut metric = encoder.encode_descriptor("relay_rule_drops", help, None, MetricType::Counter)?;
        for rule in &self.rules {
            for (reason, &count) in &rule.counters.drops {
                counter(&mut metric, &[("rule", &rule.name), ("reason", reason)], count)?;
            }
        }
        for (reason, &count) in &self.status.drops {
            counter(&mut metric, &[("rule", ""), ("reason", reason)], count)?;
        }
        Ok(())
    }

    fn planes(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let help = "Which plane carries a family of a rule";
        let mut metric = encoder.encode_descriptor("relay_rule_plane", help, None, MetricType::Gauge)?;
        for rule in &self.rules {
            for (family, plane) in [("ipv4", &rule.plane.ipv4), ("ipv6", &rule.plane.ipv6)] {
                gauge(&mut metric, &[("rule", &rule.name), ("family", family), ("plane", &plane.plane)], 1)?;
            }
        }
        Ok(())
    }

    fn states(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let help =
            "How a rule is doing: active, watching, disabled, draining, degraded, blocked, expired, error";
        let mut metric = encoder.encode_descriptor("relay_rule_state", help, None, MetricType::Gauge)?;
        for rule in &self.rules {
            gauge(&mut metric, &[("rule", &rule.name), ("state", &rule.state)], 1)?;
        }
        Ok(())
    }

    fn backends(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let help = "Whether a backend can be used for a protocol: 0 if it is down, by its answers or by order, or without an address";
        let mut metric = encoder.encode_descriptor("relay_backend_up", help, None, MetricType::Gauge)?;
        for rule in &self.rules {
            for (backend, protocol) in
                rule.to.iter().flat_map(|to| rule.protocol.split('+').map(move |name| (to, name)))
            {
                let labels = &[("rule", &*rule.name), ("backend", &*backend.addr), ("protocol", protocol)];
                gauge(&mut metric, labels, is_up(backend, protocol).into())?;
            }
        }
        Ok(())
    }

    fn backend_flows(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let help = "Flows that a backend has got";
        let mut total = encoder.encode_descriptor("relay_backend_flows", help, None, MetricType::Counter)?;
        self.each_backend(|labels, backend| counter(&mut total, labels, backend.flows.total))?;
        let name = "relay_backend_active_flows";
        let mut active =
            encoder.encode_descriptor(name, "Live flows of a backend", None, MetricType::Gauge)?;
        self.each_backend(|labels, backend| gauge(&mut active, labels, backend.flows.active))
    }

    fn probes(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let help = "How long the last probe took that was answered";
        let unit = Some(&Unit::Seconds);
        let mut metric = encoder.encode_descriptor("relay_backend_probe", help, unit, MetricType::Gauge)?;
        self.each_backend(|&[rule, backend], view| {
            for (protocol, judged) in view.judged() {
                if let Some(latency) = judged.latency_ms {
                    let labels = &[rule, backend, ("protocol", protocol)];
                    metric.encode_family(labels)?.encode_gauge(&(latency / 1000.0))?;
                }
            }
            Ok(())
        })
    }

    fn round_trips(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let help = "How long round trips take by the handshakes of TCP flows: SYN to SYN-ACK at the backend, SYN-ACK to ACK at the client";
        let unit = Some(&Unit::Seconds);
        let mut metric = encoder.encode_descriptor("relay_backend_rtt", help, unit, MetricType::Histogram)?;
        self.each_backend(|&[rule, backend], view| {
            for (name, leg) in view.legs() {
                let labels = &[rule, backend, ("leg", name)];
                let (sum, buckets) = (leg.sum_ms / 1000.0, leg.in_seconds());
                let mut metric = metric.encode_family(labels)?;
                metric.encode_histogram::<NoLabelSet>(sum, leg.count, &buckets, None)?;
            }
            Ok(())
        })
    }

    fn backend_failures(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let help = "What a backend has failed: checks (with check.kind = passive, flows that count as such), or sessions of relayd";
        let mut metric =
            encoder.encode_descriptor("relay_backend_failures", help, None, MetricType::Counter)?;
        self.each_backend(|&[rule, backend], view| {
            if view.tcp.is_some() || view.udp.is_some() {
                let failures = view.judged().map(|(_, judged)| judged.failures).sum();
                counter(&mut metric, &[rule, backend, ("source", "check")], failures)?;
            }
            counter(&mut metric, &[rule, backend, ("source", "session")], view.failed)
        })
    }

    fn backend_pools(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let help = "Tunnels that wait for clients (connect.pool)";
        let mut open = encoder.encode_descriptor("relay_backend_pooled", help, None, MetricType::Gauge)?;
        self.each_backend(|labels, backend| match &backend.pool {
            Some(pool) => gauge(&mut open, labels, pool.open),
            None => Ok(()),
        })?;
        let help = "Clients that got a tunnel that waited (hit), or had to wait for their own (miss)";
        let name = "relay_backend_pool_clients";
        let mut clients = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        self.each_backend(|&[rule, backend], view| {
            let pool = view.pool.into_iter().flat_map(|pool| [("hit", pool.taken), ("miss", pool.missed)]);
            pool.into_iter().try_for_each(|(result, count)| {
                counter(&mut clients, &[rule, backend, ("result", result)], count)
            })
        })
    }

    fn each_backend(
        &self,
        mut write: impl FnMut(&[(&'static str, &str); 2], &BackendView) -> Encoded,
    ) -> Encoded {
        let each = self.rules.iter().flat_map(|rule| rule.to.iter().map(move |backend| (rule, backend)));
        each.into_iter().try_for_each(|(rule, backend)| {
            write(&[("rule", &rule.name), ("backend", &backend.addr)], backend)
        })
    }

    fn alerts(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let help = "Events that an alert's service has taken, has refused, or that there was no room for";
        let mut metric = encoder.encode_descriptor("relay_alerts", help, None, MetricType::Counter)?;
        for alert in &self.alerts {
            for (result, count) in
                [("sent", alert.sent), ("failed", alert.failed), ("dropped", alert.dropped)]
            {
                counter(&mut metric, &[("alert", &alert.name), ("result", result)], count)?;
            }
        }
        Ok(())
    }

    fn daemon(&self, encoder: &mut DescriptorEncoder<'_>) -> Encoded {
        let name = "relay_config_last_reload_success";
        let help = "Whether the last reload was accepted";
        let mut reload = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        reload.encode_gauge(&i64::from(self.status.reload.success))?;
        let mut build =
            encoder.encode_descriptor("relay_build", "The version that runs", None, MetricType::Info)?;
        build.encode_info(&[("version", self.status.version.as_str())])
    }
}

/// One that drains is as well as its answers: it only gets no new flows.
fn is_up(backend: &BackendView, protocol: &str) -> bool {
    let is_out = backend.order == Some(BackendOrder::Down) || backend.state == "unresolved";
    !is_out && backend.judged().all(|(name, judged)| name != protocol || judged.state != "down")
}

fn counter(metric: &mut MetricEncoder<'_>, labels: &[(&str, &str)], value: u64) -> Encoded {
    metric.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, u64>(&value, None)
}

fn gauge(metric: &mut MetricEncoder<'_>, labels: &[(&str, &str)], value: u64) -> Encoded {
    metric.encode_family(&labels)?.encode_gauge(&i64::try_from(value).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_contract() {
        let status = StatusView { version: "1.2".into(), ..StatusView::default() };
        let rule = serde_json::json!({
            "name": "tokyo", "listen": [":80"], "protocol": "tcp+udp", "enabled": true, "state": "active",
            "to": [
                { "addr": "10.0.0.9:80", "weight": 1, "state": "draining", "order": "drain", "failed": 2,
                  "pool": { "open": 4, "taken": 7, "missed": 1 },
                  "flows": { "active": 1, "total": 3 },
                  "tcp": { "state": "up", "since_seconds": 9, "latency_ms": 1.5, "successes": 8, "failures": 5 },
                  "rtt": { "client": { "count": 3, "sum_ms": 40.5, "p50_ms": 1.0, "p90_ms": 1.0, "p99_ms": 1.0,
                      "buckets": [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1] } } },
                { "addr": "10.0.0.8:80", "weight": 1, "state": "down", "order": "down" },
                { "addr": "10.0.0.7:80", "weight": 1, "state": "up", "tcp": { "state": "up", "since_seconds": 9,
                  "successes": 8, "failures": 0 }, "udp": { "state": "down", "since_seconds": 9,
                  "successes": 0, "failures": 5 } },
                { "addr": "a.test:80", "weight": 1, "state": "unresolved" },
            ],
            "plane": { "ipv4": { "plane": "kernel", "hook": "tc" }, "ipv6": { "plane": "none" } },
            "counters": { "unit": "ip", "ingress": { "packets": 2, "bytes": 120 },
                "egress": { "packets": 1, "bytes": 60 }, "flows": { "active": 1, "total": 3 },
                "drops": { "too_big": 4 }, "lifetime": { "ingress": { "packets": 9, "bytes": 999 },
                    "egress": { "packets": 1, "bytes": 60 }, "flows": 7 } },
        });
        let rule: RuleView = serde_json::from_value(rule).expect("rule");
        let ports = vec![("tokyo".into(), vec![PortView { port: 8388, lifetime: rule.counters.lifetime }])];
        let text = encode(Views { rules: vec![rule], status, ports, ..Views::default() }).expect("text");
        for line in [
            "relay_rule_bytes_total{rule=\"tokyo\",direction=\"ingress\"} 120",
            "relay_rule_lifetime_bytes_total{rule=\"tokyo\",direction=\"ingress\"} 999",
            "relay_port_bytes_total{rule=\"tokyo\",port=\"8388\",direction=\"ingress\"} 999",
            "relay_rule_packets_total{rule=\"tokyo\",direction=\"egress\"} 1",
            "relay_rule_unit{rule=\"tokyo\",unit=\"ip\"} 1",
            "relay_rule_flows_total{rule=\"tokyo\"} 3",
            "relay_rule_active_flows{rule=\"tokyo\"} 1",
            "relay_rule_drops_total{rule=\"tokyo\",reason=\"too_big\"} 4",
            "relay_rule_plane{rule=\"tokyo\",family=\"ipv4\",plane=\"kernel\"} 1",
            "relay_backend_up{rule=\"tokyo\",backend=\"10.0.0.9:80\",protocol=\"tcp\"} 1",
            "relay_backend_up{rule=\"tokyo\",backend=\"10.0.0.8:80\",protocol=\"tcp\"} 0",
            "relay_backend_up{rule=\"tokyo\",backend=\"10.0.0.8:80\",protocol=\"udp\"} 0",
            "relay_backend_up{rule=\"tokyo\",backend=\"10.0.0.7:80\",protocol=\"tcp\"} 1",
            "relay_backend_up{rule=\"tokyo\",backend=\"10.0.0.7:80\",protocol=\"udp\"} 0",
            "relay_backend_up{rule=\"tokyo\",backend=\"a.test:80\",protocol=\"udp\"} 0",
            "relay_backend_flows_total{rule=\"tokyo\",backend=\"10.0.0.9:80\"} 3",
            "relay_backend_active_flows{rule=\"tokyo\",backend=\"10.0.0.9:80\"} 1",
            "relay_backend_probe_seconds{rule=\"tokyo\",backend=\"10.0.0.9:80\",protocol=\"tcp\"} 0.0015",
            "relay_backend_rtt_seconds_sum{rule=\"tokyo\",backend=\"10.0.0.9:80\",leg=\"client\"} 0.0405",
            "relay_backend_rtt_seconds_count{rule=\"tokyo\",backend=\"10.0.0.9:80\",leg=\"client\"} 3",
            "relay_backend_rtt_seconds_bucket{le=\"0.000016\",rule=\"tokyo\",backend=\"10.0.0.9:80\",leg=\"client\"} 1",
            "relay_backend_rtt_seconds_bucket{le=\"4.194304\",rule=\"tokyo\",backend=\"10.0.0.9:80\",leg=\"client\"} 2",
            "relay_backend_rtt_seconds_bucket{le=\"+Inf\",rule=\"tokyo\",backend=\"10.0.0.9:80\",leg=\"client\"} 3",
            "relay_backend_failures_total{rule=\"tokyo\",backend=\"10.0.0.9:80\",source=\"check\"} 5",
            "relay_backend_failures_total{rule=\"tokyo\",backend=\"10.0.0.9:80\",source=\"session\"} 2",
            "relay_backend_pooled{rule=\"tokyo\",backend=\"10.0.0.9:80\"} 4",
            "relay_backend_pool_clients_total{rule=\"tokyo\",backend=\"10.0.0.9:80\",result=\"hit\"} 7",
            "relay_backend_pool_clients_total{rule=\"tokyo\",backend=\"10.0.0.9:80\",result=\"miss\"} 1",
            "relay_config_last_reload_success 0",
            "relay_build_info{version=\"1.2\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn alerts_are_counted_by_what_became_of_them() {
        let alert = AlertView { name: "phone".into(), sent: 3, dropped: 1, ..AlertView::default() };
        let text = encode(Views { alerts: vec![alert], ..Views::default() }).expect("text");
        let lines = text.lines().filter(|line| line.starts_with("relay_alerts_total"));
        let expected = ["sent\"} 3", "failed\"} 0", "dropped\"} 1"];
        let expected = expected.map(|rest| format!("relay_alerts_total{{alert=\"phone\",result=\"{rest}"));
        assert_eq!(lines.collect::<Vec<_>>(), expected);
    }
}
