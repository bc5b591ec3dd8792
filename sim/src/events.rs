//! Lets things happen, each in its part of the world.

use model::Millis;

use crate::world::{Due, Event, World};

impl World {
    /// Lets the next thing happen. False when something must not have.
    pub fn step(&mut self) -> bool {
        let Some(due) = self.due() else {
            // Every host has left, or was told to end.
            return false;
        };
        self.etcd.advance(Millis(self.now));
        self.committed(None);
        let Due {
            machine,
            process,
            event,
        } = due;
        let alive = process == 0 || self.process(machine) == Some(process);
        match event {
            Event::Arrive(asker, request, sent) => {
                self.steps += 1;
                self.arrive(machine, process, asker, request, sent);
            }
            // The engine goes on when the agent is gone.
            Event::Effect(step) => {
                self.steps += 1;
                self.effect(machine, process, step);
            }
            Event::Fault => {
                self.steps += 1;
                self.fault();
            }
            Event::Ordered(fault) => self.happens(fault),
            Event::Ends => self.ends(machine),
            Event::Start => self.start(machine),
            _ if !alive => {}
            Event::Send(asker, request) => self.send(machine, asker, request),
            Event::Answer(asker, answer) => self.answered(machine, asker, answer),
            Event::Pass => self.pass(machine),
            Event::Tick => self.tick(machine),
            Event::KeepAlive(lease) => self.keep_alive(machine, lease),
            Event::GiveUpMember => self.next_member(machine),
            Event::HostWake => self.host_wakes(machine),
            Event::Stream => self.stream(machine),
            Event::Stepped(report) => self.stepped(machine, *report),
            Event::Sight(docker_id) => self.sight(machine, &docker_id),
            Event::Ask(question) => self.registry_answers(machine, question),
            Event::Probe(instance, started_at) => self.probe(machine, &instance, started_at),
            Event::Count(instance, started_at) => self.count(machine, &instance, started_at),
        }
        self.violation.is_none()
    }
}
