//! Ports and the flows that share them: max-min fairness by progressive filling.
//!
//! A flow has a weight on each of its ports, the part of its bytes that passes there. All flows
//! that meet, directly or by others, get their rates anew when one of them starts or ends.
//! Proof: the tests below.

use super::machine::Gpu;
use super::method::{Layout, outside};
use super::queue::{Lane, Queue, What};

/// Bytes on their way.
#[derive(Clone, Debug, Default)]
struct Flow {
    lanes: Vec<Lane>,
    ports: Vec<(u32, f64)>,
    most: f64,
    rest: f64,
    rate: f64,
    since: u64,
    revision: u32,
}

/// All ports of a machine.
pub(super) struct Ports {
    rates: Vec<f64>,
    /// Flows that have begun, by port.
    users: Vec<Vec<u32>>,
    flows: Vec<Flow>,
    unused: Vec<u32>,
    node_ranks: usize,
    has_net: bool,
    /// First port of the sockets, and GPUs of one.
    sockets: Option<(u32, usize)>,
}

/// Ports of a rank: out and in on its node's links, out and in on the network.
const OF_RANK: u32 = 4;

impl Ports {
    pub(super) fn new(gpu: &Gpu, ranks: usize) -> Self {
        let port = gpu.link.port_bytes_per_s;
        let nic = gpu.net.map_or(f64::INFINITY, |net| net.nic_bytes_per_s);
        let mut rates: Vec<f64> = (0..ranks).flat_map(|_| [port, port, nic, nic]).collect();
        let sockets = gpu.link.socket.map(|(gpus, rate)| {
            let first = rates.len() as u32;
            rates.extend((0..2 * ranks.div_ceil(gpus)).map(|_| rate));
            (first, gpus)
        });
        Self {
            users: rates.iter().map(|_| Vec::new()).collect(),
            rates,
            flows: Vec::new(),
            unused: Vec::new(),
            node_ranks: gpu.node_ranks,
            has_net: gpu.net.is_some(),
            sockets,
        }
    }

    /// Ports of one message.
    pub(super) fn of_message(&self, from: u32, to: u32) -> impl Iterator<Item = (u32, f64)> + use<> {
        let crosses = self.has_net && from as usize / self.node_ranks != to as usize / self.node_ranks;
        let net = if crosses { 2 } else { 0 };
        let sockets = self.between_sockets(from, to).map(|(out, into)| [out, into]);
        let ports = [from * OF_RANK + net, to * OF_RANK + net + 1].into_iter();
        ports.chain(sockets.into_iter().flatten()).map(|port| (port, 1.0))
    }

    /// Ports of a ring through `ranks`, which ascend: once around, in at every rank and out again.
    /// Between nodes every rank's NIC carries its part.
    pub(super) fn of_ring(&self, ranks: &[u32], at: Layout) -> Vec<(u32, f64)> {
        let mut ports = Vec::with_capacity(2 * ranks.len());
        let nic = if at.nodes > 1 { 1.0 / at.on_node as f64 } else { 0.0 };
        for (i, &rank) in ranks.iter().enumerate() {
            let next = ranks[(i + 1) % ranks.len()];
            if at.nodes == 1 || at.on_node > 1 {
                ports.extend([(rank * OF_RANK, 1.0), (rank * OF_RANK + 1, 1.0)]);
            }
            if nic > 0.0 {
                ports.extend([(rank * OF_RANK + 2, nic), (rank * OF_RANK + 3, nic)]);
            }
            if let Some((out, into)) = self.between_sockets(rank, next) {
                ports.extend([(out, 1.0), (into, 1.0)]);
            }
        }
        ports
    }

    /// Ports of messages between all pairs of `ranks`.
    pub(super) fn of_pairs(&self, ranks: &[u32], at: Layout) -> Vec<(u32, f64)> {
        let mut ports = Vec::with_capacity(2 * ranks.len());
        let far = if at.nodes > 1 { outside(at) } else { 0.0 };
        for &rank in ranks {
            ports.extend([(rank * OF_RANK, 1.0 - far), (rank * OF_RANK + 1, 1.0 - far)]);
            ports.extend([(rank * OF_RANK + 2, far), (rank * OF_RANK + 3, far)]);
        }
        if let Some((first, gpus)) = self.sockets {
            let socket = |rank: u32| rank as usize / gpus;
            let mut each: Vec<(usize, usize)> = Vec::new();
            for &rank in ranks {
                match each.iter_mut().find(|(of, _)| *of == socket(rank)) {
                    Some((_, here)) => *here += 1,
                    None => each.push((socket(rank), 1)),
                }
            }
            let peers = (ranks.len() - 1).max(1) as f64;
            for (socket, here) in each {
                let leaving = (here * (ranks.len() - here)) as f64 / peers;
                let port = first + 2 * socket as u32;
                ports.extend([(port, leaving), (port + 1, leaving)]);
            }
        }
        ports.retain(|(_, weight)| *weight > 0.0);
        ports
    }

    /// The port out of one rank's socket and into the other's, if those differ.
    fn between_sockets(&self, from: u32, to: u32) -> Option<(u32, u32)> {
        let (first, gpus) = self.sockets?;
        let (a, b) = (from as usize / gpus, to as usize / gpus);
        (a != b).then_some((first + 2 * a as u32, first + 2 * b as u32 + 1))
    }

    /// Keeps a flow of `bytes` for `lanes` over `ports`, at no more than `most` bytes/s, until it
    /// starts.
    pub(super) fn add(
        &mut self,
        lanes: &[Lane],
        ports: impl IntoIterator<Item = (u32, f64)>,
        most: f64,
        bytes: f64,
    ) -> u32 {
        let index = self.unused.pop().unwrap_or_else(|| {
            self.flows.push(Flow::default());
            self.flows.len() as u32 - 1
        });
        let flow = &mut self.flows[index as usize];
        flow.lanes.clear();
        flow.lanes.extend_from_slice(lanes);
        flow.ports.clear();
        flow.ports.extend(ports);
        (flow.most, flow.rest, flow.rate, flow.since) = (most, bytes, 0.0, 0);
        // Revisions go on, so that what was meant for an earlier flow is known as such.
        flow.revision += 1;
        index
    }

    /// The flow starts to move.
    pub(super) fn start(&mut self, flow: u32, now: u64, queue: &mut Queue) {
        let of = &mut self.flows[flow as usize];
        of.since = now;
        let mut alone = true;
        for (port, _) in &of.ports {
            let users = &mut self.users[*port as usize];
            alone &= users.is_empty();
            users.push(flow);
        }
        if alone {
            self.fill(&[flow], now, queue);
        } else {
            let met = self.met(vec![flow]);
            self.fill(&met, now, queue);
        }
    }

    /// Ends the flow, if `revision` is its latest; returns the lanes that it was for.
    pub(super) fn end(&mut self, flow: u32, revision: u32, now: u64, queue: &mut Queue) -> &[Lane] {
        let of = &mut self.flows[flow as usize];
        if of.revision != revision {
            return &[];
        }
        let mut met = Vec::new();
        for (port, _) in &of.ports {
            let users = &mut self.users[*port as usize];
            users.retain(|user| *user != flow);
            met.extend_from_slice(users);
        }
        of.revision += 1;
        self.unused.push(flow);
        if !met.is_empty() {
            let met = self.met(met);
            self.fill(&met, now, queue);
        }
        &self.flows[flow as usize].lanes
    }

    /// All flows that share a port with one of `flows`, or with one that does.
    fn met(&self, mut flows: Vec<u32>) -> Vec<u32> {
        flows.sort_unstable();
        flows.dedup();
        let mut seen: std::collections::BTreeSet<u32> = flows.iter().copied().collect();
        let mut next = 0;
        while let Some(&flow) = flows.get(next) {
            next += 1;
            for (port, _) in &self.flows[flow as usize].ports {
                let users = &self.users[*port as usize];
                if users.len() > 1 {
                    flows.extend(users.iter().copied().filter(|user| seen.insert(*user)));
                }
            }
        }
        flows
    }

    /// Gives every flow of a closed set its fair rate and asks to be told of its end.
    fn fill(&mut self, flows: &[u32], now: u64, queue: &mut Queue) {
        if let [only] = flows {
            return self.revise(*only, self.most(*only), now, queue);
        }
        for (&flow, rate) in flows.iter().zip(self.fair(flows)) {
            self.revise(flow, rate, now, queue);
        }
    }

    fn revise(&mut self, index: u32, rate: f64, now: u64, queue: &mut Queue) {
        let flow = &mut self.flows[index as usize];
        flow.rest = (flow.rest - flow.rate * (now - flow.since) as f64 / 1e9).max(0.0);
        (flow.rate, flow.since) = (rate, now);
        flow.revision += 1;
        let lasts = (flow.rest / rate * 1e9).ceil() as u64;
        let Some(&lane) = flow.lanes.first() else { return };
        queue.push(now + lasts, lane, What::FlowEnd { flow: index, revision: flow.revision });
    }

    /// The rate of a flow that shares no port.
    fn most(&self, flow: u32) -> f64 {
        let flow = &self.flows[flow as usize];
        let share = flow.ports.iter().map(|(port, weight)| self.rates[*port as usize] / weight);
        share.fold(flow.most, f64::min)
    }

    /// Max-min fair rates: all grow alike until a port is full or a flow has what it can use.
    fn fair(&self, flows: &[u32]) -> Vec<f64> {
        // Ports of these flows: what is left, and the weight of those that still grow.
        let mut ports: Vec<u32> =
            flows.iter().flat_map(|flow| self.flows[*flow as usize].ports.iter().map(|(port, _)| *port)).collect();
        ports.sort_unstable();
        ports.dedup();
        let at = |port: u32| ports.binary_search(&port).unwrap_or(0);
        let mut left: Vec<f64> = ports.iter().map(|port| self.rates[*port as usize]).collect();
        let mut weight = vec![0.0; ports.len()];
        for flow in flows {
            self.flows[*flow as usize].ports.iter().for_each(|(port, w)| weight[at(*port)] += w);
        }
        let mut rates = vec![None; flows.len()];
        while rates.contains(&None) {
            let share = |flow: &Flow| {
                let full = flow.ports.iter().map(|(port, _)| left[at(*port)] / weight[at(*port)]);
                full.fold(flow.most, f64::min)
            };
            let growing = flows.iter().zip(&rates).filter(|(_, rate)| rate.is_none());
            let level = growing.map(|(flow, _)| share(&self.flows[*flow as usize])).fold(f64::INFINITY, f64::min);
            let stops: Vec<bool> = flows
                .iter()
                .zip(&rates)
                .map(|(flow, rate)| rate.is_none() && share(&self.flows[*flow as usize]) <= level * (1.0 + 1e-12))
                .collect();
            for (i, flow) in flows.iter().enumerate().filter(|(i, _)| stops[*i]) {
                // A port that rounding emptied still lets its last flow end.
                let level = level.max(1.0);
                rates[i] = Some(level);
                for (port, w) in &self.flows[*flow as usize].ports {
                    left[at(*port)] -= level * w;
                    weight[at(*port)] -= w;
                }
            }
        }
        rates.into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ports of the given rates, each 1 byte a ns times that, and flows that have begun.
    fn ports(rates: &[f64], flows: &[(&[(u32, f64)], f64)]) -> Ports {
        let mut ports = Ports {
            rates: rates.iter().map(|rate| rate * 1e9).collect(),
            users: rates.iter().map(|_| Vec::new()).collect(),
            flows: Vec::new(),
            unused: Vec::new(),
            node_ranks: 1,
            has_net: false,
            sockets: None,
        };
        for (at, most) in flows {
            let lane = Lane { rank: 0, stream: 0 };
            let flow = ports.add(&[lane], at.to_vec(), most * 1e9, 1e3);
            ports.start(flow, 0, &mut Queue::default());
        }
        ports
    }

    fn rates(ports: &Ports) -> Vec<f64> {
        ports.flows.iter().map(|flow| (flow.rate / 1e6).round() / 1e3).collect()
    }

    #[test]
    fn rates_are_max_min_fair() {
        // The example of Bertsekas and Gallager: what one flow cannot use, the others share.
        let all: &[(u32, f64)] = &[(0, 1.0), (1, 1.0)];
        assert_eq!(rates(&ports(&[1.0, 4.0], &[(all, 9.0), (&[(0, 1.0)], 9.0), (&[(1, 1.0)], 9.0)])), [0.5, 0.5, 3.5]);
        // A flow that has enough leaves the rest.
        assert_eq!(rates(&ports(&[3.0], &[(&[(0, 1.0)], 0.5), (&[(0, 1.0)], 9.0)])), [0.5, 2.5]);
        // A quarter of one flow's bytes pass the port: it weighs as much.
        assert_eq!(rates(&ports(&[5.0], &[(&[(0, 0.25)], 9.0), (&[(0, 1.0)], 9.0)])), [4.0, 4.0]);
        // Alone, the busiest port or the own limit binds.
        assert_eq!(rates(&ports(&[5.0, 2.0], &[(&[(0, 1.0), (1, 0.5)], 9.0)])), [4.0]);
    }

    #[test]
    fn a_flow_that_ends_leaves_its_rate_to_the_rest() {
        let mut queue = Queue::default();
        let mut ports = ports(&[2.0], &[]);
        let lane = Lane { rank: 0, stream: 0 };
        let [short, long] = [100.0, 300.0].map(|bytes| ports.add(&[lane], [(0, 1.0)], 9e9, bytes));
        ports.start(short, 0, &mut queue);
        ports.start(long, 0, &mut queue);
        let mut ends = Vec::new();
        while let Some(event) = queue.pop() {
            if let What::FlowEnd { flow, revision } = event.what
                && !ports.end(flow, revision, event.at, &mut queue).is_empty()
            {
                ends.push((flow, event.at));
            }
        }
        // Both at 1 byte a ns until the short one ends, then the rest of 200 at 2.
        assert_eq!(ends, [(short, 100), (long, 200)]);
        assert_eq!(ports.unused.len(), 2);
    }
}
