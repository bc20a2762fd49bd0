//! WebSocket subscriptions to live views.
