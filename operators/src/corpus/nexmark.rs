//! The auction site of the Nexmark benchmark: people, auctions and bids, one behind the other.
//!
//! The proportions (of 50 events 1 person, 3 auctions, 46 bids), the columns, the sizes and the share of hot auctions,
//! bidders and sellers are those of the benchmark (Tucker, Tufte, Papadimos, Maier, "NEXMark", 2002, and Apache Beam's
//! suite, <https://beam.apache.org/documentation/sdks/java/testing/nexmark/>). A seed decides everything.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};

const PEOPLE: u64 = 1;
const AUCTIONS: u64 = 3;
const ALL: u64 = 50;
const FIRST_PERSON: i64 = 1_000;
const FIRST_AUCTION: i64 = 1_000;
const FIRST_CATEGORY: i64 = 10;
const CATEGORIES: i64 = 5;
/// Of so many bids (auctions) all but one go to a hot auction (seller).
const HOT_AUCTION: u64 = 2;
const HOT_BIDDER: u64 = 4;
const HOT_SELLER: u64 = 4;
/// The newest so many people and auctions take part.
const ACTIVE_PEOPLE: i64 = 1_000;
const IN_FLIGHT_AUCTIONS: i64 = 100;
const STATES: [&str; 6] = ["AZ", "CA", "ID", "OR", "WA", "WY"];
const CITIES: [&str; 10] = [
    "Phoenix",
    "Los Angeles",
    "San Francisco",
    "Boise",
    "Portland",
    "Bend",
    "Redmond",
    "Seattle",
    "Kent",
    "Cheyenne",
];
const FIRST_NAMES: [&str; 11] = [
    "Peter", "Paul", "Luke", "John", "Saul", "Vicky", "Kate", "Julie", "Sarah", "Deiter", "Walter",
];
const LAST_NAMES: [&str; 10] = [
    "Shultz", "Abrams", "Spencer", "White", "Bartels", "Walton", "Smith", "Jones", "Noris", "Anders",
];
const CHANNELS: [&str; 4] = ["Google", "Facebook", "Baidu", "Apple"];

/// The declarations of the three streams, for `CREATE STREAM`.
pub const DECLARATIONS: [&str; 3] = [
    "CREATE STREAM person (id BIGINT, name TEXT, email_address TEXT, credit_card TEXT, city TEXT, state TEXT,
        date_time TIMESTAMP, extra TEXT) WITH (event_time = 'date_time')",
    "CREATE STREAM auction (id BIGINT, item_name TEXT, description TEXT, initial_bid BIGINT, reserve BIGINT,
        date_time TIMESTAMP, expires TIMESTAMP, seller BIGINT, category BIGINT, extra TEXT)
        WITH (event_time = 'date_time')",
    "CREATE STREAM bid (auction BIGINT, bidder BIGINT, price BIGINT, channel TEXT, url TEXT, date_time TIMESTAMP,
        extra TEXT) WITH (event_time = 'date_time')",
];
/// The names of the streams, in the order of [`DECLARATIONS`].
pub const STREAMS: [&str; 3] = ["person", "auction", "bid"];

/// Events in order; a new one every `spacing_us`.
pub struct Nexmark {
    next: u64,
    start_us: i64,
    spacing_us: i64,
    random: u64,
}

#[derive(Default)]
struct People {
    id: Vec<i64>,
    name: Vec<String>,
    email_address: Vec<String>,
    credit_card: Vec<String>,
    city: Vec<&'static str>,
    state: Vec<&'static str>,
    date_time: Vec<i64>,
    extra: Vec<String>,
}

#[derive(Default)]
struct Auctions {
    id: Vec<i64>,
    item_name: Vec<String>,
    description: Vec<String>,
    initial_bid: Vec<i64>,
    reserve: Vec<i64>,
    date_time: Vec<i64>,
    expires: Vec<i64>,
    seller: Vec<i64>,
    category: Vec<i64>,
    extra: Vec<String>,
}

#[derive(Default)]
struct Bids {
    auction: Vec<i64>,
    bidder: Vec<i64>,
    price: Vec<i64>,
    channel: Vec<String>,
    url: Vec<String>,
    date_time: Vec<i64>,
    extra: Vec<String>,
}

impl Nexmark {
    /// The first event is at `start_us`, microseconds since 1970.
    pub fn new(seed: u64, start_us: i64, spacing_us: i64) -> Nexmark {
        Nexmark {
            next: 0,
            start_us,
            spacing_us,
            random: seed,
        }
    }

    /// The next `events` events: people, auctions and bids, each with the columns of its declaration.
    pub fn batches(&mut self, events: usize) -> [RecordBatch; 3] {
        let (mut people, mut auctions, mut bids) = (People::default(), Auctions::default(), Bids::default());
        for _ in 0..events {
            let number = self.next;
            self.next += 1;
            let at = self.start_us + number as i64 * self.spacing_us;
            match number % ALL {
                0..PEOPLE => self.person(number, at, &mut people),
                place if place < PEOPLE + AUCTIONS => self.auction(number, at, &mut auctions),
                _ => self.bid(number, at, &mut bids),
            }
        }
        [people.batch(), auctions.batch(), bids.batch()]
    }

    /// splitmix64
    fn random(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % below.max(1)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.random(from.len() as u64) as usize]
    }

    fn text(&mut self, least: u64, most: u64) -> String {
        let length = least + self.random(most - least + 1);
        (0..length)
            .map(|_| char::from(b'a' + self.random(26) as u8))
            .collect()
    }

    /// A price between 1.00 and 10,000,000.00 in cents, evenly over its magnitudes.
    fn price(&mut self) -> i64 {
        let magnitude = self.random(6_000_000) as f64 / 1e6;
        (10_f64.powf(magnitude) * 100.0).round() as i64
    }

    fn person(&mut self, number: u64, at: i64, into: &mut People) {
        let (first, last) = (self.pick(&FIRST_NAMES), self.pick(&LAST_NAMES));
        into.id.push(last_person(number));
        into.name.push(format!("{first} {last}"));
        let (mailbox, host) = (self.text(7, 7), self.text(5, 5));
        into.email_address.push(format!("{mailbox}@{host}.com"));
        let card: Vec<String> = (0..4).map(|_| format!("{:04}", self.random(10_000))).collect();
        into.credit_card.push(card.join(" "));
        into.city.push(self.pick(&CITIES));
        into.state.push(self.pick(&STATES));
        into.date_time.push(at);
        into.extra.push(self.text(80, 120));
    }

    fn auction(&mut self, number: u64, at: i64, into: &mut Auctions) {
        let initial = self.price();
        let newest = last_person(number);
        let seller = match self.random(HOT_SELLER) {
            0 => newest - self.random(ACTIVE_PEOPLE.min(newest - FIRST_PERSON + 1) as u64) as i64,
            _ => (newest - FIRST_PERSON) / 100 * 100 + FIRST_PERSON,
        };
        into.id.push(last_auction(number));
        into.item_name.push(self.text(10, 20));
        into.description.push(self.text(50, 100));
        into.initial_bid.push(initial);
        into.reserve.push(initial + self.price());
        into.date_time.push(at);
        // As long as it takes until so many later auctions have begun.
        let horizon = IN_FLIGHT_AUCTIONS * (ALL / AUCTIONS) as i64 * self.spacing_us;
        into.expires
            .push(at + 1_000 + self.random((horizon * 2).max(1) as u64) as i64);
        into.seller.push(seller);
        into.category
            .push(FIRST_CATEGORY + self.random(CATEGORIES as u64) as i64);
        into.extra.push(self.text(200, 300));
    }

    fn bid(&mut self, number: u64, at: i64, into: &mut Bids) {
        let newest = last_auction(number);
        let auction = match self.random(HOT_AUCTION) {
            0 => newest - self.random(IN_FLIGHT_AUCTIONS.min(newest - FIRST_AUCTION + 1) as u64) as i64,
            _ => (newest - FIRST_AUCTION) / 100 * 100 + FIRST_AUCTION,
        };
        let newest = last_person(number);
        let bidder = match self.random(HOT_BIDDER) {
            0 => newest - self.random(ACTIVE_PEOPLE.min(newest - FIRST_PERSON + 1) as u64) as i64,
            _ => (newest - FIRST_PERSON) / 100 * 100 + FIRST_PERSON + 1,
        };
        let (channel, url) = match self.random(2) {
            0 => {
                let channel = self.pick(&CHANNELS);
                (
                    channel.to_string(),
                    format!(
                        "https://www.nexmark.com/{}/item.htm?query=1",
                        channel.to_lowercase()
                    ),
                )
            }
            _ => {
                let number = self.random(10_000);
                let path = [self.text(5, 5), self.text(5, 5), self.text(5, 5)].join("/");
                (
                    format!("channel-{number}"),
                    format!("https://www.nexmark.com/{path}/item.htm?query=1&channel_id={number}"),
                )
            }
        };
        into.auction.push(auction);
        into.bidder.push(bidder);
        into.price.push(self.price());
        into.channel.push(channel);
        into.url.push(url);
        into.date_time.push(at);
        into.extra.push(self.text(10, 30));
    }
}

/// Id of the newest person before or at an event.
fn last_person(number: u64) -> i64 {
    FIRST_PERSON + (number / ALL) as i64
}

/// Id of the newest auction before or at an event.
fn last_auction(number: u64) -> i64 {
    let (round, place) = (number / ALL, number % ALL);
    let in_round = place.saturating_sub(PEOPLE - 1).min(AUCTIONS);
    FIRST_AUCTION + (round * AUCTIONS + in_round).saturating_sub(1) as i64
}

fn numbers(values: Vec<i64>) -> ArrayRef {
    Arc::new(Int64Array::from(values))
}

fn times(values: Vec<i64>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(values).with_timezone("+00:00"))
}

fn texts<T: AsRef<str>>(values: Vec<T>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter(columns).expect("invariant: one value per event in every column")
}

impl People {
    fn batch(self) -> RecordBatch {
        batch(vec![
            ("id", numbers(self.id)),
            ("name", texts(self.name)),
            ("email_address", texts(self.email_address)),
            ("credit_card", texts(self.credit_card)),
            ("city", texts(self.city)),
            ("state", texts(self.state)),
            ("date_time", times(self.date_time)),
            ("extra", texts(self.extra)),
        ])
    }
}

impl Auctions {
    fn batch(self) -> RecordBatch {
        batch(vec![
            ("id", numbers(self.id)),
            ("item_name", texts(self.item_name)),
            ("description", texts(self.description)),
            ("initial_bid", numbers(self.initial_bid)),
            ("reserve", numbers(self.reserve)),
            ("date_time", times(self.date_time)),
            ("expires", times(self.expires)),
            ("seller", numbers(self.seller)),
            ("category", numbers(self.category)),
            ("extra", texts(self.extra)),
        ])
    }
}

impl Bids {
    fn batch(self) -> RecordBatch {
        batch(vec![
            ("auction", numbers(self.auction)),
            ("bidder", numbers(self.bidder)),
            ("price", numbers(self.price)),
            ("channel", texts(self.channel)),
            ("url", texts(self.url)),
            ("date_time", times(self.date_time)),
            ("extra", texts(self.extra)),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;

    #[test]
    fn proportions_and_references_hold() {
        let [people, auctions, bids] = Nexmark::new(1, 0, 100).batches(5_000);
        assert_eq!(
            (people.num_rows(), auctions.num_rows(), bids.num_rows()),
            (100, 300, 4_600)
        );
        let range = |batch: &RecordBatch, column: &str| {
            let values = batch[column].as_primitive::<Int64Type>().values();
            (values.iter().min().copied(), values.iter().max().copied())
        };
        assert_eq!(range(&people, "id"), (Some(1_000), Some(1_099)));
        assert_eq!(range(&auctions, "id"), (Some(1_000), Some(1_299)));
        let (least, most) = range(&bids, "auction");
        assert!(least >= Some(1_000) && most <= Some(1_299));
        let (least, most) = range(&auctions, "seller");
        assert!(least >= Some(1_000) && most <= Some(1_099));
        assert_eq!(
            Nexmark::new(1, 0, 100).batches(50),
            Nexmark::new(1, 0, 100).batches(50)
        );
    }
}
