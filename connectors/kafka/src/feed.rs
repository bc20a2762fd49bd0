//! [`KafkaFeed`]: a topic that others write, as a [`Feed`].

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use pyflare_connectors::log::AppendListener;
use pyflare_connectors::{Feed, FeedOptions, FeedStart, LogError, LogRecord};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};

use crate::client::{Witness, meaning};
use crate::options::KafkaOptions;
use crate::outputs;
use crate::reader::{ANSWER, TopicReader, watermarks};
use crate::topics::{Content, Topic, partitions_of};

/// Reading ends when it is dropped.
pub(crate) struct KafkaFeed {
    pub reader: Arc<TopicReader>,
    options: KafkaOptions,
    witness: Witness,
}

impl KafkaFeed {
    /// Finds the topic. Blocks until the brokers have answered.
    pub fn open(
        wanted: &FeedOptions,
        options: &KafkaOptions,
        witness: &Witness,
        listeners: Arc<RwLock<Vec<AppendListener>>>,
    ) -> Result<KafkaFeed, LogError> {
        let name = wanted.topic.to_string();
        allow(&name, &wanted.project, options)?;
        let asking: BaseConsumer<Witness> = options
            .client()
            .set("allow.auto.create.topics", "false")
            .create_with_context(witness.clone())
            .map_err(|error| LogError::Settings {
                detail: error.to_string(),
            })?;
        let Some(partitions) = partitions_of(&asking, &name, options, witness)? else {
            return Err(LogError::Topic {
                topic: name,
                detail: "there is no such topic; create it first, or correct its name".into(),
            });
        };
        let topic = Topic {
            content: Content::Rows {
                project: Arc::clone(&wanted.project),
                stream: Arc::clone(&wanted.stream),
            },
            name,
            partitions,
        };
        let reader = TopicReader::open(topic, options, witness, listeners)?;
        Ok(KafkaFeed {
            reader: Arc::new(reader),
            options: options.clone(),
            witness: witness.clone(),
        })
    }

    fn name(&self) -> &str {
        &self.reader.topic().name
    }

    /// Where the first messages are that are not older than a moment.
    fn since(&self, time_us: i64) -> Result<Vec<u64>, LogError> {
        let mut asked = TopicPartitionList::new();
        for number in 0..self.partitions() {
            let time = Offset::Offset(time_us.div_euclid(1_000));
            let _ = asked.add_partition_offset(self.name(), number as i32, time);
        }
        let answer = self.reader.consumer.offsets_for_times(asked, ANSWER);
        let answer =
            answer.map_err(|error| meaning(&error, self.name(), &self.options.brokers, &self.witness))?;
        let ends = self.bounds()?;
        let found = answer.elements();
        let start = |(number, (_, end)): (usize, &(u64, u64))| {
            let element = found.iter().find(|element| element.partition() == number as i32);
            match element.map(|element| element.offset()) {
                Some(Offset::Offset(offset)) => offset.max(0) as u64,
                _ => *end,
            }
        };
        Ok(ends.iter().enumerate().map(start).collect())
    }

    /// The first offset that is kept and the end, of all partitions.
    fn bounds(&self) -> Result<Vec<(u64, u64)>, LogError> {
        let consumer = &self.reader.consumer;
        let of = |number| watermarks(consumer, self.name(), number, &self.options, &self.witness);
        (0..self.partitions()).map(of).collect()
    }
}

/// Refuses topics that hold the requests of all projects, and those that the settings do not name.
pub(crate) fn allow(name: &str, project: &str, options: &KafkaOptions) -> Result<(), LogError> {
    let refused = |detail: &str| {
        Err(LogError::NotForStreams {
            topic: name.into(),
            detail: detail.into(),
        })
    };
    if outputs::is_own(name, options) {
        return refused("it is one of the log's own, which hold the requests of every project");
    }
    if name.starts_with("__") {
        return refused("it is one of Kafka's own");
    }
    let fits = |pattern: &String| {
        let pattern = pattern.replace("{project}", project);
        match pattern.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == pattern,
        }
    };
    match options.stream_topics.iter().any(fits) {
        true => Ok(()),
        false => refused("kafka.stream_topics does not name it"),
    }
}

impl Feed for KafkaFeed {
    fn partitions(&self) -> u32 {
        self.reader.shared.partitions.read().len() as u32
    }

    fn starts(&self, start: FeedStart) -> Result<Vec<u64>, LogError> {
        let starts: Vec<u64> = match start {
            FeedStart::Earliest => self.bounds()?.into_iter().map(|(first, _)| first).collect(),
            FeedStart::Latest => self.bounds()?.into_iter().map(|(_, end)| end).collect(),
            FeedStart::Time(time_us) => self.since(time_us)?,
        };
        // A user may be allowed to see a topic and not to read it.
        if let Some(first) = starts.first() {
            self.reader.follow(0, *first);
            self.reader.await_answer(0)?;
        }
        Ok(starts)
    }

    fn first_offset(&self, partition: u32) -> u64 {
        let partitions = self.reader.shared.partitions.read();
        partitions.get(partition as usize).map_or(0, |known| known.first)
    }

    fn end_offset(&self, partition: u32) -> u64 {
        self.reader.end_offset(partition)
    }

    fn read(&self, partition: u32, offset: u64, max_bytes: usize) -> Result<Vec<(u64, LogRecord)>, LogError> {
        self.reader.read(partition, offset, max_bytes, Duration::ZERO)
    }

    fn follow(&self, partition: u32, offset: u64) {
        self.reader.follow(partition, offset);
    }

    fn failure(&self) -> Option<LogError> {
        self.reader.failure()
    }

    fn stop(&self) {
        self.reader.stop();
    }
}

impl Drop for KafkaFeed {
    fn drop(&mut self) {
        self.reader.stop();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn topics_of_the_log_of_kafka_and_of_others_are_not_for_everybody() {
        let mut options = KafkaOptions::of_url("kafka://one:9092").unwrap();
        options.topic_prefix = "p.".into();
        let code = |name: &str, project: &str, options: &KafkaOptions| {
            allow(name, project, options).err().map(|error| error.code())
        };
        assert_eq!(code("orders", "shop", &options), None);
        assert_eq!(code("otlp_spans", "shop", &options), None, "of another prefix");
        for own in ["p.otlp_spans", "p.user_streams", "__consumer_offsets"] {
            assert_eq!(code(own, "shop", &options), Some("PF-2017"), "{own}");
        }
        options.stream_topics = vec!["{project}.*".into(), "prices".into()];
        for (name, project, expected) in [
            ("shop.orders", "shop", None),
            ("prices", "shop", None),
            ("prices2", "shop", Some("PF-2017")),
            ("shop.orders", "other", Some("PF-2017")),
        ] {
            assert_eq!(code(name, project, &options), expected, "{name} of {project}");
        }
        options.stream_topics = Vec::new();
        assert_eq!(code("orders", "shop", &options), Some("PF-2017"));
    }
}
