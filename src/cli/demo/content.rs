//! The words of the demo: its models, conversations, documents, tools and failures.

/// A model and what it is like.
pub struct Model {
    pub provider: &'static str,
    pub requested: &'static str,
    pub answers_as: &'static str,
    pub server: &'static str,
    pub first_token_ms: f64,
    pub tokens_per_second: f64,
}

pub const MODELS: [Model; 4] = [
    Model {
        provider: "openai",
        requested: "gpt-4.1-mini",
        answers_as: "gpt-4.1-mini-2025-04-14",
        server: "api.openai.com",
        first_token_ms: 320.0,
        tokens_per_second: 110.0,
    },
    Model {
        provider: "openai",
        requested: "gpt-4.1",
        answers_as: "gpt-4.1-2025-04-14",
        server: "api.openai.com",
        first_token_ms: 540.0,
        tokens_per_second: 65.0,
    },
    Model {
        provider: "anthropic",
        requested: "claude-sonnet-4-5",
        answers_as: "claude-sonnet-4-5-20250929",
        server: "api.anthropic.com",
        first_token_ms: 700.0,
        tokens_per_second: 75.0,
    },
    Model {
        provider: "gcp.gemini",
        requested: "gemini-2.5-flash",
        answers_as: "gemini-2.5-flash",
        server: "generativelanguage.googleapis.com",
        first_token_ms: 280.0,
        tokens_per_second: 180.0,
    },
];

pub const TALKS: [(&str, &str); 8] = [
    (
        "Where is my order 48213? It should have arrived on Friday.",
        "Order 48213 left our warehouse in Basel on Thursday and is due tomorrow between 9 and 12.",
    ),
    (
        "Can I send back shoes that I wore once?",
        "You can return them within 30 days as long as the soles show no wear. I have sent you a label.",
    ),
    (
        "Which of your tents is best for winter?",
        "For snow I would take the Nordkap 3: four poles, a snow skirt, and tested at −25 °C.",
    ),
    (
        "Why was I charged twice?",
        "The first charge was an authorisation that your bank releases within three days; only one was booked.",
    ),
    (
        "¿Tienen esta chaqueta en azul, talla M?",
        "Sí, la chaqueta Rigi está disponible en azul, talla M, y llega en dos días.",
    ),
    (
        "Summarise my last three invoices.",
        "March 84.20, April 112.00, May 61.75: 257.95 in all, everything paid.",
    ),
    (
        "Do you ship to Norway and how long does it take?",
        "Yes, four to six working days; customs are included in the price.",
    ),
    (
        "配送先の住所を変更できますか。",
        "はい。発送前であれば、注文の詳細から変更できます。",
    ),
];
pub const QUESTIONS: [(&str, &str, &str); 4] = [
    (
        "How many days of parental leave do we get in Austria?",
        "hr/leave-at.md",
        "Parents in Austria may take leave until the child is 22 months old; the company tops up the first 16 weeks.",
    ),
    (
        "What is the limit for approving travel without a manager?",
        "finance/travel.md",
        "Travel below 400 EUR needs no approval; above, the line manager approves in the portal.",
    ),
    (
        "How do I rotate the signing key of the payment service?",
        "runbooks/payment-keys.md",
        "Create the new key with role signer, deploy, wait one hour for caches, then revoke the old one.",
    ),
    (
        "Which customers are in scope of the new data residency rule?",
        "legal/residency.md",
        "All customers with a billing address in Switzerland or the EU, from the first of July on.",
    ),
];
pub const TOOLS: [(&str, &str, &str); 4] = [
    (
        "lookup_order",
        r#"{"order_id":"48213"}"#,
        r#"{"status":"in transit","carrier":"Post","eta":"tomorrow"}"#,
    ),
    (
        "check_stock",
        r#"{"sku":"RIGI-BLUE-M","store":"Zürich"}"#,
        r#"{"available":14}"#,
    ),
    (
        "create_refund",
        r#"{"order_id":"47001","amount":"39.90","currency":"CHF"}"#,
        r#"{"refund_id":"rf_8812","state":"pending"}"#,
    ),
    (
        "search_policies",
        r#"{"query":"return of worn goods"}"#,
        r#"{"hits":["returns.md#worn","returns.md#label"]}"#,
    ),
];
pub const FAILURES: [(&str, &str); 4] = [
    ("timeout", "the model did not answer within 30 s"),
    (
        "rate_limit_exceeded",
        "429: tokens per minute exceeded, try again in 6.2 s",
    ),
    ("content_filter", "the answer was withheld by the content filter"),
    ("server_error", "503: the model is overloaded"),
];
