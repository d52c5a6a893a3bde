//! The events of a run.

use std::mem;

use super::{
    Distance, InvalidWorld, Outcome, Placement, Times, World,
    clock::{Clock, Turn},
    draft::{Branch, Propose, Taken},
    outcome::{Met, Tally},
    server::{Drafting, Kind, Pass, Server, Task, Verify},
    session::{Asked, Cost, Cycle, Leg, Session, Side, Way},
    text::{FIRST, Text},
};
use crate::{
    Verdict,
    policy::{Gamma, MOST_GAMMA, Outlook},
    portable::{exp, normal_quantile},
};

/// A run under way.
pub(super) struct Run<'a> {
    world: &'a World,
    times: &'a Times,
    text: &'a Text,
    clock: Clock<Event>,
    sessions: Vec<Session>,
    /// Targets first, then drafts on servers of their own.
    servers: Vec<Server>,
    /// What a session that begins can go by.
    outlook: Outlook,
    /// Sessions that have not ended.
    under_way: usize,
    tally: Tally,
}

/// What happens; to a session by its number, or to a server.
#[derive(Debug)]
enum Event {
    /// The coordinator begins a cycle.
    Cycle(usize),
    /// These come to a service.
    Propose(usize, Propose),
    Verify(usize),
    Close(usize),
    /// These come to the coordinator.
    Proposal(usize, Proposal),
    Branches(usize, Vec<Branch>),
    Verdict(usize, Cost),
    /// A server looks for what waits.
    Wake(usize),
    Passed(usize),
}

#[derive(Clone, Copy, Debug)]
struct Proposal {
    id: u64,
    gamma: usize,
    cost: Cost,
}

impl<'a> Run<'a> {
    /// Of sessions that go by `outlook` where they choose γ.
    pub(super) fn new(world: &'a World, times: &'a Times, text: &'a Text, outlook: Outlook) -> Self {
        let drafts = if world.placement == Placement::Apart { world.drafts } else { 0 };
        let session = |id| Session::new(id, world.longest(), world.branches);
        let all_from_s = world.begin_s(world.sessions - 1, times);
        Self {
            world,
            times,
            text,
            clock: Clock::new(),
            sessions: (0..world.sessions).map(session).collect(),
            servers: (0..world.targets + drafts).map(|_| Server::default()).collect(),
            tally: Tally::new(all_from_s),
            outlook,
            under_way: world.sessions,
        }
    }

    /// With what is known of γ afterwards.
    pub(super) fn outcome(mut self) -> (Outcome, Outlook) {
        for session in 0..self.sessions.len() {
            let begin_s = self.world.begin_s(session, self.times);
            self.clock.schedule(begin_s, Turn::Happens, Event::Cycle(session));
        }
        while let Some(event) = self.clock.next() {
            match event {
                Event::Cycle(session) => self.propose(session),
                Event::Propose(session, propose) => self.asked(session, propose),
                Event::Verify(session) => self.verify(session),
                Event::Close(session) => self.sessions[session].draft.is_over = true,
                Event::Proposal(session, proposal) => self.proposal(session, proposal),
                Event::Branches(session, branches) => self.branches(session, branches),
                Event::Verdict(session, cost) => self.commit(session, cost),
                Event::Wake(server) => self.wake(server),
                Event::Passed(server) => self.passed(server),
            }
        }
        let (ended_s, events) = (self.clock.now_s(), self.clock.events());
        (self.tally.outcome(self.world, &self.sessions, &self.servers, ended_s, events), self.outlook)
    }
}

/// The coordinator: propose → verify → commit.
impl Run<'_> {
    fn propose(&mut self, id: usize) {
        let (begun_s, sessions) = (self.clock.now_s(), self.under_way);
        let session = &mut self.sessions[id];
        let before = session.cycle.wanted;
        let is_cold = self.world.branches > 0 && before == 0;
        let most = (self.world.longest() - session.committed - 1).min(MOST_GAMMA);
        let (gamma, most) = match self.world.gamma {
            Gamma::Fixed(gamma) => (gamma.min(most), gamma.min(most)),
            Gamma::Auto => (self.outlook.gamma(sessions, most), most),
        };
        let has_changed = session.committed == 1 || gamma != before;
        session.cycle = Cycle { begun_s, sessions, wanted: gamma, is_cold, has_changed, ..Cycle::default() };
        if gamma == 0 {
            return self.window(id, 0);
        }
        let tokens = mem::take(&mut session.unseen);
        let hit = session.ahead.settle(&tokens);
        let propose = Propose { tokens: tokens.clone(), gamma, verifying: hit.is_some() };
        if let Some(branch) = hit {
            self.adopt(id, branch, Met::Hit);
            self.send(id, Side::Draft, Way::There, Event::Propose(id, propose));
            return self.window(id, branch.gamma.min(most));
        }
        let (sent_s, anticipated) = (self.clock.now_s(), session.ahead.is_expected());
        session.asked = Some(Asked { tokens, most, sent_s, anticipated });
        self.send(id, Side::Draft, Way::There, Event::Propose(id, propose));
    }

    fn adopt(&mut self, id: usize, branch: Branch, met: Met) {
        self.sessions[id].ahead.adopt(branch);
        self.tally.met(met);
        self.tally.used(branch.gamma);
    }

    /// The window of `proposed` tokens and the one before them leaves.
    fn window(&mut self, id: usize, proposed: usize) {
        let cycle = &mut self.sessions[id].cycle;
        (cycle.proposed, cycle.sent_s) = (proposed, self.clock.now_s());
        self.send(id, Side::Target, Way::There, Event::Verify(id));
    }

    fn proposal(&mut self, id: usize, Proposal { id: number, gamma, cost }: Proposal) {
        let now_s = self.clock.now_s();
        self.handle(id, 1, now_s);
        let session = &mut self.sessions[id];
        let Some(asked) = session.asked.take() else { return };
        session.cycle.draft = Some(Leg::of(now_s - asked.sent_s, cost));
        session.ahead.plant(number, gamma);
        if asked.anticipated {
            self.tally.met(Met::Miss);
        }
        self.window(id, gamma);
    }

    /// Those that grew together come together.
    fn branches(&mut self, id: usize, branches: Vec<Branch>) {
        self.handle(id, branches.len(), self.clock.now_s());
        let session = &mut self.sessions[id];
        branches.into_iter().for_each(|branch| session.ahead.take(branch));
        let Some(asked) = &session.asked else { return };
        let Some(branch) = session.ahead.settle(&asked.tokens) else { return };
        // It was drafted before it was asked for: all of the wait is the way of it.
        let network_s = self.clock.now_s() - asked.sent_s;
        let proposed = branch.gamma.min(asked.most);
        session.asked = None;
        session.cycle.draft = Some(Leg { network_s, ..Leg::default() });
        self.adopt(id, branch, Met::Late);
        self.window(id, proposed);
    }

    fn commit(&mut self, id: usize, cost: Cost) {
        let now_s = self.clock.now_s();
        let coordinator_s = self.times.coordinator_s;
        self.handle(id, 0, now_s + coordinator_s);
        let session = &mut self.sessions[id];
        let cycle = session.cycle;
        let Cycle { begun_s, proposed, draft, sent_s, .. } = cycle;
        let (text, base) = (self.text, session.committed);
        let verdict = Verdict::of(&[FIRST; MOST_GAMMA][..proposed], |row| text.choice(id, base + row, row));
        let target = Leg::of(now_s - sent_s, cost);
        session.committed += verdict.tokens.len();
        session.unseen.extend(&verdict.tokens);
        session.ended_s = now_s + coordinator_s;
        let (ended_s, wall_s) = (session.ended_s, session.ended_s - begun_s);
        let is_done = session.committed == self.world.longest();
        self.tally.cycle(proposed, verdict.accepted, [draft.unwrap_or_default(), target], (begun_s, wall_s));
        if self.world.gamma == Gamma::Auto {
            let observed = cycle.observed(verdict.accepted, target, coordinator_s);
            self.outlook.learn(&observed);
        }
        match is_done {
            true => {
                self.under_way -= 1;
                self.tally.ended(ended_s);
                self.send(id, Side::Draft, Way::There, Event::Close(id));
            }
            false => self.clock.schedule(now_s + coordinator_s, Turn::Happens, Event::Cycle(id)),
        }
    }

    fn send(&mut self, id: usize, side: Side, way: Way, message: Event) {
        let (distance, around_s) = match (side, self.world.placement) {
            (Side::Target, _) => (self.world.target_rtt, self.times.target_around_s),
            (Side::Draft, Placement::Apart) => (self.world.draft_rtt, self.times.draft_around_s),
            (Side::Draft, Placement::CoLocated) => (Distance::default(), self.times.draft_around_s),
        };
        let now_s = self.clock.now_s();
        // A co-located draft has its end of it there as well.
        let of_draft = usize::from(self.world.placement == Placement::CoLocated);
        match (side, way) {
            (Side::Target, _) => self.handle(id, 2, now_s + around_s / 2.0),
            (Side::Draft, Way::There) => self.handle(id, 1 + of_draft, now_s),
            (Side::Draft, Way::Back) => self.handle(id, of_draft, now_s),
        }
        let link = &mut self.sessions[id].links[side as usize];
        let arrival_s = link.arrival_s(now_s, way, distance, around_s, self.world.seed);
        self.clock.schedule(arrival_s, Turn::Happens, message);
    }

    /// What is on the target's device sends or takes in so many messages, until then.
    fn handle(&mut self, id: usize, messages: usize, until_s: f64) {
        let handling_s = self.times.handling_s;
        if handling_s > 0.0 {
            let target = self.server(id, Side::Target);
            self.servers[target].handle(messages as f64 * handling_s, until_s);
        }
    }
}

/// The services.
impl Run<'_> {
    fn server(&self, id: usize, side: Side) -> usize {
        match (side, self.world.placement) {
            (Side::Target, _) | (Side::Draft, Placement::CoLocated) => id % self.world.targets,
            (Side::Draft, Placement::Apart) => self.world.targets + id % self.world.drafts,
        }
    }

    fn verify(&mut self, id: usize) {
        let rows = 1 + self.sessions[id].cycle.proposed;
        let verify = Verify { session: id, rows, arrived_s: self.clock.now_s() };
        self.enqueue(self.server(id, Side::Target), Task::Verify(verify));
    }

    fn asked(&mut self, id: usize, propose: Propose) {
        let draft = &mut self.sessions[id].draft;
        draft.inbox.push_back((self.clock.now_s(), propose));
        if draft.is_free() {
            self.attend(id);
        }
    }

    /// The draft takes what it is asked for, and goes ahead where that is nothing.
    fn attend(&mut self, id: usize) {
        if self.sessions[id].draft.is_over {
            return;
        }
        let now_s = self.clock.now_s();
        let server = self.server(id, Side::Draft);
        while let Some((received_s, propose)) = self.sessions[id].draft.inbox.pop_front() {
            let draft = &mut self.sessions[id].draft;
            match draft.take(&propose) {
                Taken::Adopted => {}
                Taken::Answer(Branch { id: number, gamma, .. }) => {
                    let cost = Cost { server_s: now_s - received_s, queue_s: 0.0 };
                    let proposal = Proposal { id: number, gamma, cost };
                    self.send(id, Side::Draft, Way::Back, Event::Proposal(id, proposal));
                }
                Taken::Forward { rows } => {
                    draft.drafts = true;
                    let (gamma, enqueued_s) = (propose.gamma, now_s);
                    let drafting =
                        Drafting { session: id, rows, gamma, drafted: 0, received_s, enqueued_s, passes_s: 0.0 };
                    return self.enqueue(server, Task::Draft(drafting));
                }
            }
        }
        let branches = self.sessions[id].draft.send();
        if !branches.is_empty() {
            branches.iter().for_each(|branch| self.tally.sent(branch.gamma));
            self.send(id, Side::Draft, Way::Back, Event::Branches(id, branches));
        }
        if self.sessions[id].draft.begin() {
            self.enqueue(server, Task::Grow(id));
        }
    }

    fn enqueue(&mut self, server: usize, task: Task) {
        self.servers[server].enqueue(task);
        self.rouse(server);
    }

    fn rouse(&mut self, server: usize) {
        let Server { pass: None, wakes: wakes @ false, .. } = &mut self.servers[server] else { return };
        *wakes = true;
        self.clock.schedule(self.clock.now_s(), Turn::Decided, Event::Wake(server));
    }

    /// Begins the next pass.
    fn wake(&mut self, at: usize) {
        let handles_until_s = self.servers[at].handles_until_s;
        if handles_until_s > self.clock.now_s() {
            return self.clock.schedule(handles_until_s, Turn::Decided, Event::Wake(at));
        }
        self.servers[at].admit();
        let sessions = &self.sessions;
        let recalled = self.servers[at].growing.extract_if(.., |id| sessions[*id].draft.is_recalled());
        for id in recalled.collect::<Vec<_>>() {
            self.sessions[id].draft.harvest(self.text, id);
            self.attend(id);
        }
        let server = &mut self.servers[at];
        server.wakes = false;
        server.admit();
        let Some(kind) = server.next() else { return };
        let Times { target_pass, draft_pass, branch_pass, target_rest, draft_rest, .. } = self.times;
        let (pass_s, rest) = match kind {
            Kind::Verify => {
                let (sessions, rows) = server.windows();
                (target_pass.seconds(rows) + (sessions - 1) as f64 * self.times.target_session_s, target_rest)
            }
            Kind::Draft => (draft_pass.seconds(server.draft_rows()), draft_rest),
            Kind::Grow => {
                let rows = server.growing.iter().map(|id| self.sessions[*id].draft.rows()).sum();
                (branch_pass.seconds(rows), draft_rest)
            }
        };
        let rested_s = rest.seconds(server.waited_s(kind, self.clock.now_s()));
        let of = match (kind, self.world.placement) {
            (Kind::Draft | Kind::Grow, Placement::Apart) => at - self.world.targets,
            _ => at,
        };
        let took_s = self.times.varied(pass_s + rested_s, server.lot(self.world.seed, of, kind));
        server.begin(kind, took_s);
        self.clock.schedule(self.clock.now_s() + took_s, Turn::Happens, Event::Passed(at));
    }

    fn passed(&mut self, at: usize) {
        let now_s = self.clock.now_s();
        let server = &mut self.servers[at];
        let goes_on_s = server.goes_on_s();
        if goes_on_s > 0.0 {
            return self.clock.schedule(now_s + goes_on_s, Turn::Happens, Event::Passed(at));
        }
        let Some(Pass { kind, took_s, .. }) = server.end(now_s) else { return };
        match kind {
            Kind::Verify => {
                for Verify { session, arrived_s, .. } in server.verified() {
                    let server_s = now_s - arrived_s;
                    let cost = Cost { server_s, queue_s: (server_s - took_s).max(0.0) };
                    self.send(session, Side::Target, Way::Back, Event::Verdict(session, cost));
                }
            }
            Kind::Draft => {
                for Drafting { session, gamma, received_s, enqueued_s, passes_s, .. } in server.drafted(took_s) {
                    let draft = &mut self.sessions[session].draft;
                    draft.drafts = false;
                    let id = draft.proposed(gamma, self.text, session);
                    let (server_s, queue_s) = (now_s - received_s, (now_s - enqueued_s - passes_s).max(0.0));
                    let cost = Cost { server_s, queue_s };
                    self.send(session, Side::Draft, Way::Back, Event::Proposal(session, Proposal { id, gamma, cost }));
                    self.attend(session);
                }
            }
            Kind::Grow => {
                let sessions = &mut self.sessions;
                let grown = server.growing.extract_if(.., |id| sessions[*id].draft.grow());
                for id in grown.collect::<Vec<_>>() {
                    self.sessions[id].draft.harvest(self.text, id);
                    self.attend(id);
                }
            }
        }
        self.rouse(at);
    }
}

impl Times {
    /// What takes so long on average, by lot.
    fn varied(&self, mean_s: f64, lot: f64) -> f64 {
        mean_s * exp(self.spread * (normal_quantile(lot) - 0.5 * self.spread))
    }
}

impl World {
    /// When a session begins, in seconds.
    fn begin_s(&self, session: usize, times: &Times) -> f64 {
        let of_target = self.sessions.div_ceil(self.targets);
        (session / self.targets) as f64 / of_target as f64 * times.begin_s
    }

    /// Runs to the end of all sessions.
    ///
    /// # Errors
    /// A field that has none of the values that it may have.
    pub fn run(&self, times: &Times) -> Result<Outcome, InvalidWorld> {
        self.run_after(&mut Outlook::new(), times)
    }

    /// The same after other runs: the sessions begin with what those have learnt, and leave what they learn for the next.
    ///
    /// # Errors
    /// A field that has none of the values that it may have.
    pub fn run_after(&self, known: &mut Outlook, times: &Times) -> Result<Outcome, InvalidWorld> {
        self.validate()?;
        times.validate()?;
        let text = Text::new(self.seed, &self.conditional_acceptance, [self.sessions, self.tokens]);
        let (outcome, learnt) = Run::new(self, times, &text, mem::take(known)).outcome();
        *known = learnt;
        Ok(outcome)
    }
}
