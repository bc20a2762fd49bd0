//! The queries of the Nexmark benchmark, as monitors over the streams `person`, `auction` and `bid`.
//!
//! Left out: q11 needs session windows; q12 counts by processing time, which no deterministic view has; q13 joins a file. q7 and q8 join windows where the benchmark's text compares
//! times with their bounds, q18 and q19 break ties by time, so that batch and stream mean the same.

/// What a query must reach per core, in events a second; `None`: only measured.
pub struct Query {
    pub name: &'static str,
    pub select: &'static str,
    pub events_per_second: Option<f64>,
}

const fn query(name: &'static str, events_per_second: Option<f64>, select: &'static str) -> Query {
    Query {
        name,
        select,
        events_per_second,
    }
}

pub const QUERIES: &[Query] = &[
    query("q0", Some(500e3), "SELECT auction, bidder, price, date_time, extra FROM bid"),
    query(
        "q1",
        Some(500e3),
        "SELECT auction, bidder, 0.908 * price AS price, date_time, extra FROM bid",
    ),
    query("q2", Some(500e3), "SELECT auction, price FROM bid WHERE auction % 123 = 0"),
    query(
        "q3",
        Some(500e3),
        "SELECT p.name, p.city, p.state, a.id FROM auction AS a JOIN person AS p ON a.seller = p.id
         WHERE a.category = 10 AND p.state IN ('OR', 'ID', 'CA')",
    ),
    query(
        "q4",
        Some(100e3),
        "SELECT category, avg(final) AS average FROM
         (SELECT a.id, a.category, max(b.price) AS final FROM auction AS a JOIN bid AS b ON a.id = b.auction
          WHERE b.date_time BETWEEN a.date_time AND a.expires GROUP BY a.id, a.category)
         GROUP BY category",
    ),
    query(
        "q5",
        Some(100e3),
        "WITH counts AS (SELECT auction, window_start, window_end, count(*) AS num
           FROM HOP(bid, date_time, INTERVAL '2 seconds', INTERVAL '10 seconds')
           GROUP BY auction, window_start, window_end)
         SELECT c.auction, c.num, c.window_start FROM counts AS c
         JOIN (SELECT window_start, max(num) AS most FROM counts GROUP BY window_start) AS m
         ON c.window_start = m.window_start AND c.num = m.most",
    ),
    query(
        "q6",
        None,
        "SELECT seller, id, avg(final) OVER
           (PARTITION BY seller ORDER BY bid_time ROWS BETWEEN 10 PRECEDING AND CURRENT ROW) AS average
         FROM (SELECT a.seller, a.id, b.price AS final, b.date_time AS bid_time,
                 row_number() OVER (PARTITION BY a.id ORDER BY b.price DESC, b.date_time) AS place
               FROM auction AS a JOIN bid AS b ON a.id = b.auction WHERE b.date_time BETWEEN a.date_time AND a.expires)
         WHERE place = 1",
    ),
    query(
        "q7",
        Some(100e3),
        "SELECT b.auction, b.price, b.bidder, b.date_time, b.window_start
         FROM (SELECT * FROM TUMBLE(bid, date_time, INTERVAL '10 seconds')) AS b
         JOIN (SELECT window_start, max(price) AS most FROM TUMBLE(bid, date_time, INTERVAL '10 seconds')
               GROUP BY window_start) AS m
         ON b.window_start = m.window_start AND b.price = m.most",
    ),
    query(
        "q8",
        Some(500e3),
        "SELECT p.id, p.name, p.window_start
         FROM (SELECT DISTINCT id, name, window_start FROM TUMBLE(person, date_time, INTERVAL '10 seconds')) AS p
         JOIN (SELECT DISTINCT seller, window_start FROM TUMBLE(auction, date_time, INTERVAL '10 seconds')) AS a
         ON p.id = a.seller AND p.window_start = a.window_start",
    ),
    query(
        "q9",
        Some(100e3),
        "SELECT id, item_name, seller, category, bidder, price, bid_time FROM
         (SELECT a.id, a.item_name, a.seller, a.category, b.bidder, b.price, b.date_time AS bid_time,
            row_number() OVER (PARTITION BY a.id ORDER BY b.price DESC, b.date_time) AS place
          FROM auction AS a JOIN bid AS b ON a.id = b.auction WHERE b.date_time BETWEEN a.date_time AND a.expires)
         WHERE place = 1",
    ),
    query(
        "q10",
        None,
        "SELECT auction, bidder, price, date_time, extra, to_char(date_time, '%Y-%m-%d') AS day,
           to_char(date_time, '%H:%M') AS minute FROM bid",
    ),
    query(
        "q14",
        None,
        "SELECT auction, bidder, 0.908 * price AS price,
           CASE WHEN date_part('hour', date_time) BETWEEN 8 AND 18 THEN 'dayTime'
                WHEN date_part('hour', date_time) <= 6 OR date_part('hour', date_time) >= 20 THEN 'nightTime'
                ELSE 'otherTime' END AS time_type,
           date_time, extra, character_length(extra) - character_length(replace(extra, 'c', '')) AS c_counts
         FROM bid WHERE 0.908 * price > 1000000 AND 0.908 * price < 50000000",
    ),
    query(
        "q15",
        None,
        "SELECT date_trunc('day', date_time) AS day, count(*) AS total_bids,
           count(*) FILTER (WHERE price < 10000) AS rank1_bids,
           count(*) FILTER (WHERE price >= 10000 AND price < 1000000) AS rank2_bids,
           count(*) FILTER (WHERE price >= 1000000) AS rank3_bids,
           count(DISTINCT bidder) AS total_bidders,
           count(DISTINCT bidder) FILTER (WHERE price < 10000) AS rank1_bidders,
           count(DISTINCT auction) AS total_auctions,
           count(DISTINCT auction) FILTER (WHERE price >= 1000000) AS rank3_auctions
         FROM bid GROUP BY date_trunc('day', date_time)",
    ),
    query(
        "q16",
        None,
        "SELECT channel, date_trunc('day', date_time) AS day, max(to_char(date_time, '%H:%M')) AS minute,
           count(*) AS total_bids, count(*) FILTER (WHERE price < 10000) AS rank1_bids,
           count(DISTINCT bidder) AS total_bidders, count(DISTINCT auction) AS total_auctions
         FROM bid GROUP BY channel, date_trunc('day', date_time)",
    ),
    query(
        "q17",
        None,
        "SELECT auction, date_trunc('day', date_time) AS day, count(*) AS total_bids,
           count(*) FILTER (WHERE price < 10000) AS rank1_bids,
           count(*) FILTER (WHERE price >= 10000 AND price < 1000000) AS rank2_bids,
           count(*) FILTER (WHERE price >= 1000000) AS rank3_bids,
           min(price) AS min_price, max(price) AS max_price, avg(price) AS avg_price, sum(price) AS sum_price
         FROM bid GROUP BY auction, date_trunc('day', date_time)",
    ),
    query(
        "q18",
        None,
        "SELECT auction, bidder, price, channel, url, date_time, extra FROM
         (SELECT *, row_number() OVER (PARTITION BY bidder, auction ORDER BY date_time DESC) AS place FROM bid)
         WHERE place = 1",
    ),
    query(
        "q19",
        None,
        "SELECT auction, bidder, price, date_time, place FROM
         (SELECT *, row_number() OVER (PARTITION BY auction ORDER BY price DESC, date_time) AS place FROM bid)
         WHERE place <= 10",
    ),
    query(
        "q20",
        Some(100e3),
        "SELECT b.auction, b.bidder, b.price, b.channel, b.url, b.date_time, b.extra, a.item_name, a.description,
           a.initial_bid, a.reserve, a.date_time AS auction_time, a.expires, a.seller, a.category
         FROM bid AS b JOIN auction AS a ON b.auction = a.id WHERE a.category = 10",
    ),
    query(
        "q21",
        None,
        "SELECT auction, bidder, price, channel,
           CASE lower(channel) WHEN 'apple' THEN '0' WHEN 'google' THEN '1' WHEN 'facebook' THEN '2'
             WHEN 'baidu' THEN '3' ELSE split_part(split_part(url, 'channel_id=', 2), '&', 1) END AS channel_id
         FROM bid WHERE url LIKE '%channel_id=%' OR lower(channel) IN ('apple', 'google', 'facebook', 'baidu')",
    ),
    query(
        "q22",
        None,
        "SELECT auction, bidder, price, channel, split_part(url, '/', 4) AS dir1, split_part(url, '/', 5) AS dir2,
           split_part(url, '/', 6) AS dir3 FROM bid",
    ),
];
