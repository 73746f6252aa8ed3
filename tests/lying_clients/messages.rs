//! Each request of each service, cut short, too long, and with fields that lie. The tables of
//! `proto/` say what the requests are.

use serde_json::Value;
use testbed::raw::{i32_at, put_i32, request};

use crate::liar::{INVALID, Liar};
use crate::stage::{BOTH, Case, Served, Stage, case};

/// The tables. All is compared with corosync 3.1.7, and evs with 1.99.
const TABLES: [(&str, &str); 6] = [
    ("cmap", include_str!("../../proto/cmap.json")),
    ("cpg", include_str!("../../proto/cpg.json")),
    ("cfg", include_str!("../../proto/cfg.json")),
    ("quorum", include_str!("../../proto/quorum.json")),
    ("votequorum", include_str!("../../proto/votequorum.json")),
    ("evs", include_str!("../../proto/evs.json")),
];

/// Requests that do what they say with any content: end the node, register a quorum device.
const POTENT: [&str; 2] = ["req_lib_cfg_tryshutdown", "req_lib_votequorum_qdevice_register"];

/// A request as its table has it.
struct Layout {
    service: &'static str,
    name: String,
    id: i32,
    size: usize,
    /// Where the last field ends.
    end: usize,
    /// Where each field lies, and its length.
    fields: Vec<(usize, usize)>,
    /// The id of its answer, if it has one.
    answer: Option<i32>,
}

impl Layout {
    /// The requests of a table that a daemon knows.
    fn all((service, table): (&'static str, &str)) -> Vec<Self> {
        let table: Value = serde_json::from_str(table).unwrap();
        let messages = table["messages"].as_array().unwrap();
        let number = |value: &Value| usize::try_from(value.as_u64().unwrap()).unwrap();
        let layout = |message: &&Value| {
            let answer = messages.iter().find(|it| it["name"] == message["reply"]);
            let fields: Vec<_> = message["fields"].as_array().unwrap().iter().collect();
            let fields = fields.iter().map(|it| (number(&it["offset"]), number(&it["size"])));
            let fields: Vec<_> = fields.filter(|(offset, _)| *offset >= 16).collect();
            Self {
                service,
                name: message["name"].as_str().unwrap().to_owned(),
                id: number(&message["id"]) as i32,
                size: number(&message["size"]),
                // The size is the header's last field that is needed.
                end: fields.iter().map(|(offset, size)| offset + size).max().unwrap_or(12),
                fields,
                answer: answer.map(|answer| number(&answer["id"]) as i32),
            }
        };
        let is_there = |message: &&Value| {
            let is_known = service == "evs" || message["until"].is_null();
            message["kind"] == "request" && is_known && message["since"] != "main"
        };
        messages.iter().filter(is_there).map(|message| layout(&message)).collect()
    }

    /// The request with zeros in all fields.
    fn zeros(&self) -> Vec<u8> {
        request(self.id, &vec![0; self.size - 16])
    }

    fn cut_short(&self, stage: &Stage) {
        let liar = stage.connect(self.service);
        let around = self.fields.iter().flat_map(|(offset, size)| [*offset, offset + size - 1]);
        let mut lengths: Vec<usize> = (1..48).chain(around).filter(|it| *it < self.end).collect();
        lengths.sort_unstable();
        lengths.dedup();
        for batch in lengths.chunks(16) {
            for length in batch {
                liar.send(&self.zeros()[..*length]);
            }
            // Without an id it is a request that has an answer.
            let answered = batch.iter().filter(|it| self.answer.is_some() || **it < 4);
            answered.for_each(|_| drop(liar.answers(0, INVALID)));
        }
        liar.works();
        stage.hold(liar);
    }

    fn is_answered(&self, liar: &Liar, message: &[u8], what: &str) {
        liar.send(message);
        let Some(id) = self.answer else { return };
        let answer = liar.next_reply();
        let is_refusal = answer.len() == 24 && i32_at(&answer, 0) == 0;
        assert!(i32_at(&answer, 0) == id || is_refusal, "{what}: {:?}", &answer[..24]);
        assert_eq!(i32_at(&answer, 8) as usize, answer.len(), "{what}");
    }

    /// Nothing believes the size in the header.
    fn header_lies(&self, stage: &Stage) {
        let liar = stage.connect(self.service);
        for size in [0, -1, i32::MIN, i32::MAX, 15, self.size as i32 + 1, 1 << 20] {
            let mut message = self.zeros();
            put_i32(&mut message, 8, size);
            self.is_answered(&liar, &message, "a size that lies");
        }
        liar.works();
        stage.hold(liar);
    }

    fn too_long(&self, stage: &Stage) {
        let liar = stage.connect(self.service);
        for more in [1, 7, 8, 1000, 40000] {
            let mut message = self.zeros();
            message.resize(self.size + more, 0xff);
            self.is_answered(&liar, &message, "more bytes than it has");
        }
        liar.works();
        stage.hold(liar);
    }

    fn fields_lie(&self, stage: &Stage) {
        let liar = stage.connect(self.service);
        for filling in [0xff, 0x7f, 0x80, 0x01] {
            for (offset, size) in self.fields.iter().copied().chain([(16, self.size - 16)]) {
                let mut message = self.zeros();
                message[offset..offset + size].fill(filling);
                self.is_answered(&liar, &message, "a field that lies");
            }
        }
        liar.works();
        stage.hold(liar);
    }
}

pub(crate) fn cases() -> Vec<(Served, Vec<Case>)> {
    let mut cases = Vec::new();
    for layout in TABLES.into_iter().flat_map(Layout::all) {
        let name = format!("{} {}", layout.service, layout.name);
        cases.push(case(name, BOTH, move |stage| {
            layout.cut_short(stage);
            if !POTENT.contains(&&*layout.name) {
                layout.header_lies(stage);
                layout.too_long(stage);
                layout.fields_lie(stage);
            }
        }));
    }
    for (service, _) in TABLES {
        cases.push(case(format!("{service}: ids that nobody has"), BOTH, move |stage| {
            let liar = stage.connect(service);
            for id in [-1, -2, -4, 13, 100, 0xffff, i32::MAX, i32::MIN] {
                liar.send(&request(id, &[0xff; 300])).answers(0, INVALID);
            }
            liar.works();
            stage.hold(liar);
        }));
        cases.push(case(format!("{service}: a request of 0 bytes"), BOTH, move |stage| {
            stage.connect(service).send(&[]).cut();
        }));
        cases.push(case(format!("{service}: an end behind a request"), BOTH, move |stage| {
            for layout in Layout::all(TABLES.into_iter().find(|it| it.0 == service).unwrap()) {
                if !POTENT.contains(&&*layout.name) {
                    stage.connect(service).send(&layout.zeros());
                }
            }
        }));
    }
    vec![(Served::Corosync, cases)]
}
