CREATE TABLE jobs (
    seq SERIAL NOT NULL,
    id VARCHAR(64) NOT NULL,
    status VARCHAR(16) NOT NULL,
    origin VARCHAR(8) NOT NULL,
    stage VARCHAR(16),
    progress JSON,
    config JSON NOT NULL,
    content_sha256 VARCHAR(64) NOT NULL,
    labels JSON NOT NULL,
    priority INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    max_attempts INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    finished_at INTEGER,
    not_before INTEGER NOT NULL,
    submitted_at INTEGER,
    events_read INTEGER NOT NULL,
    result_pack VARCHAR(256),
    error JSON,
    PRIMARY KEY (seq),
    UNIQUE (id)
);

CREATE INDEX ix_jobs_content ON jobs (content_sha256, status);

CREATE INDEX ix_jobs_queue ON jobs (status, priority, seq);

CREATE TABLE events (
    id SERIAL NOT NULL,
    job_id VARCHAR(64) NOT NULL,
    at INTEGER NOT NULL,
    level VARCHAR(16) NOT NULL,
    type VARCHAR(64) NOT NULL,
    message TEXT NOT NULL,
    stage VARCHAR(16),
    PRIMARY KEY (id),
    FOREIGN KEY(job_id) REFERENCES jobs (id)
);

CREATE INDEX ix_events_job_id ON events (job_id);

CREATE TABLE idempotency_keys (
    key VARCHAR(255) NOT NULL,
    job_id VARCHAR(64) NOT NULL,
    request_sha256 VARCHAR(64) NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (key),
    FOREIGN KEY(job_id) REFERENCES jobs (id)
);

CREATE TABLE deployments (
    name VARCHAR(128) NOT NULL,
    target JSON NOT NULL,
    base_draft VARCHAR(128) NOT NULL,
    pack VARCHAR(256) NOT NULL,
    job_id VARCHAR(64) NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (name),
    FOREIGN KEY(job_id) REFERENCES jobs (id)
);
