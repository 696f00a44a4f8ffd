CREATE TABLE hub_schema ( version INTEGER NOT NULL, PRIMARY KEY (version) );
CREATE TABLE adapters ( id INTEGER NOT NULL, namespace VARCHAR NOT NULL, name VARCHAR NOT NULL, newest INTEGER NOT NULL, PRIMARY KEY (id), UNIQUE (namespace, name) );
CREATE TABLE versions ( id INTEGER NOT NULL, adapter_id INTEGER NOT NULL, number INTEGER NOT NULL, digest VARCHAR(64) NOT NULL, created DATETIME NOT NULL, message VARCHAR NOT NULL, size INTEGER NOT NULL, method VARCHAR, task VARCHAR, base VARCHAR, base_fingerprint VARCHAR, rank INTEGER, PRIMARY KEY (id), UNIQUE (adapter_id, number), UNIQUE (adapter_id, digest), FOREIGN KEY(adapter_id) REFERENCES adapters (id) );
CREATE TABLE files ( version_id INTEGER NOT NULL, path VARCHAR NOT NULL, sha256 VARCHAR(64) NOT NULL, size INTEGER NOT NULL, PRIMARY KEY (version_id, path), FOREIGN KEY(version_id) REFERENCES versions (id) );
CREATE TABLE labels ( version_id INTEGER NOT NULL, position INTEGER NOT NULL, label VARCHAR NOT NULL, PRIMARY KEY (version_id, position), FOREIGN KEY(version_id) REFERENCES versions (id) );
CREATE TABLE metrics ( version_id INTEGER NOT NULL, split VARCHAR NOT NULL, name VARCHAR NOT NULL, value DOUBLE NOT NULL, low DOUBLE, high DOUBLE, n INTEGER NOT NULL, headline BOOLEAN NOT NULL, PRIMARY KEY (version_id, split, name), FOREIGN KEY(version_id) REFERENCES versions (id) );
CREATE TABLE aliases ( adapter_id INTEGER NOT NULL, alias VARCHAR NOT NULL, version_id INTEGER NOT NULL, PRIMARY KEY (adapter_id, alias), FOREIGN KEY(adapter_id) REFERENCES adapters (id), FOREIGN KEY(version_id) REFERENCES versions (id) );
CREATE TABLE alias_moves ( id INTEGER NOT NULL, adapter_id INTEGER NOT NULL, alias VARCHAR NOT NULL, moved DATETIME NOT NULL, source_id INTEGER, target_id INTEGER NOT NULL, undoes INTEGER, PRIMARY KEY (id), FOREIGN KEY(adapter_id) REFERENCES adapters (id), FOREIGN KEY(source_id) REFERENCES versions (id), FOREIGN KEY(target_id) REFERENCES versions (id), UNIQUE (undoes), FOREIGN KEY(undoes) REFERENCES alias_moves (id) );
CREATE VIRTUAL TABLE adapter_text USING fts5(text, tokenize = 'trigram');
CREATE INDEX versions_by_task ON versions (task);
CREATE INDEX versions_by_base ON versions (base);
CREATE INDEX versions_by_method ON versions (method);
CREATE INDEX versions_by_base_fingerprint ON versions (base_fingerprint);
CREATE INDEX files_by_sha256 ON files (sha256);
CREATE INDEX labels_by_label ON labels (label, version_id);
CREATE INDEX metrics_by_value ON metrics (name, headline, value);
CREATE INDEX alias_moves_by_alias ON alias_moves (adapter_id, alias);
INSERT INTO hub_schema VALUES (1);
INSERT INTO adapters VALUES (1, 'acme', 'ner', 3);
INSERT INTO adapters VALUES (2, 'zeta', 'copy', 1);
INSERT INTO adapters VALUES (3, 'beta', 'dora', 1);
INSERT INTO versions VALUES (1, 1, 1, '4701e0dd134bb40279b8f147b42dea32ad53c29eca8d47a828856e0f5cf1952a', '2026-11-26 08:34:08.477643', 'first', 556, 'lora', 'token-classification', 'org/base', NULL, 2);
INSERT INTO versions VALUES (2, 1, 2, 'bf13b407d02e8776549afcf6099da544dc1c53e7f45fa3876fe86ba3af61acdf', '2026-11-26 08:34:08.497075', 'better

much', 2160, 'lora', 'token-classification', 'org/base', 'sha256:aa45c5eb6b0a35256e4d0a07e2b8b0359a1bea894b18ca726e455265a1301688', 2);
INSERT INTO versions VALUES (3, 1, 3, '59f8e3b4d10cc55753a59af6aab5aafe239edf650d6049d401d76428f2a17366', '2026-11-26 08:34:08.513606', '', 1526, 'dora', 'token-classification', 'org/base', 'sha256:e5ae740b87391db7105e33b1792e5f2439d1ac4059224a211ea0143e1512abfe', 2);
INSERT INTO versions VALUES (4, 2, 1, 'bf13b407d02e8776549afcf6099da544dc1c53e7f45fa3876fe86ba3af61acdf', '2026-11-26 08:34:08.546592', 'a copy', 2160, 'lora', 'token-classification', 'org/base', 'sha256:aa45c5eb6b0a35256e4d0a07e2b8b0359a1bea894b18ca726e455265a1301688', 2);
INSERT INTO versions VALUES (5, 3, 1, '59f8e3b4d10cc55753a59af6aab5aafe239edf650d6049d401d76428f2a17366', '2026-11-26 08:34:08.553760', '', 1526, 'dora', 'token-classification', 'org/base', 'sha256:e5ae740b87391db7105e33b1792e5f2439d1ac4059224a211ea0143e1512abfe', 2);
INSERT INTO files VALUES (1, 'adapter_config.json', '97c45104ba0504c22bd0edd254b5402092596486a2237b5a842c8fbde36cca39', 140);
INSERT INTO files VALUES (1, 'adapter_model.safetensors', '93f305a9127381c015589a773e4775c2fa48b1da1a63a6d6bcad018a91927ddb', 416);
INSERT INTO files VALUES (2, 'README.md', '95c3044fc90fe5489c4aa2f48d070bee9fc7acb4b73f14d6944c156b6733ef5f', 12);
INSERT INTO files VALUES (2, 'adapter_config.json', '97c45104ba0504c22bd0edd254b5402092596486a2237b5a842c8fbde36cca39', 140);
INSERT INTO files VALUES (2, 'adapter_model.safetensors', 'ed7c32a0abbeb1e3ae084b28d7421126e8d93690cd0baa5e45390db63e5d5ca5', 416);
INSERT INTO files VALUES (2, 'adapthub.json', '2fee2be552c3706f6f21092175eda1a86fd2c7969a972bc63c5e48da0f52aa21', 1592);
INSERT INTO files VALUES (3, 'adapter_config.json', '97c45104ba0504c22bd0edd254b5402092596486a2237b5a842c8fbde36cca39', 140);
INSERT INTO files VALUES (3, 'adapter_model.safetensors', '22d097e0ab7ff04c7eb29ca878794cec582fd27b1ca8df45b568110f9cd4a726', 416);
INSERT INTO files VALUES (3, 'adapthub.json', '1ebdf4268d7a66ac8d7062ff137717acc91f7c2039fa12a1411e1761a806134b', 970);
INSERT INTO files VALUES (4, 'README.md', '95c3044fc90fe5489c4aa2f48d070bee9fc7acb4b73f14d6944c156b6733ef5f', 12);
INSERT INTO files VALUES (4, 'adapter_config.json', '97c45104ba0504c22bd0edd254b5402092596486a2237b5a842c8fbde36cca39', 140);
INSERT INTO files VALUES (4, 'adapter_model.safetensors', 'ed7c32a0abbeb1e3ae084b28d7421126e8d93690cd0baa5e45390db63e5d5ca5', 416);
INSERT INTO files VALUES (4, 'adapthub.json', '2fee2be552c3706f6f21092175eda1a86fd2c7969a972bc63c5e48da0f52aa21', 1592);
INSERT INTO files VALUES (5, 'adapter_config.json', '97c45104ba0504c22bd0edd254b5402092596486a2237b5a842c8fbde36cca39', 140);
INSERT INTO files VALUES (5, 'adapter_model.safetensors', '22d097e0ab7ff04c7eb29ca878794cec582fd27b1ca8df45b568110f9cd4a726', 416);
INSERT INTO files VALUES (5, 'adapthub.json', '1ebdf4268d7a66ac8d7062ff137717acc91f7c2039fa12a1411e1761a806134b', 970);
INSERT INTO labels VALUES (2, 0, 'O');
INSERT INTO labels VALUES (2, 1, 'B-PER');
INSERT INTO labels VALUES (3, 0, 'O');
INSERT INTO labels VALUES (3, 1, 'B-X');
INSERT INTO labels VALUES (4, 0, 'O');
INSERT INTO labels VALUES (4, 1, 'B-PER');
INSERT INTO labels VALUES (5, 0, 'O');
INSERT INTO labels VALUES (5, 1, 'B-X');
INSERT INTO metrics VALUES (2, 'test', 'f1', 0.8, 0.75, 0.8500000000000001, 100, 1);
INSERT INTO metrics VALUES (2, 'test', 'loss', 0.4, 0.35000000000000003, 0.45, 100, 1);
INSERT INTO metrics VALUES (2, 'train', 'f1', 0.99, 0.94, 1.04, 100, 0);
INSERT INTO metrics VALUES (2, 'validation', 'f1', 0.7, 0.6499999999999999, 0.75, 100, 0);
INSERT INTO metrics VALUES (4, 'test', 'f1', 0.8, 0.75, 0.8500000000000001, 100, 1);
INSERT INTO metrics VALUES (4, 'test', 'loss', 0.4, 0.35000000000000003, 0.45, 100, 1);
INSERT INTO metrics VALUES (4, 'train', 'f1', 0.99, 0.94, 1.04, 100, 0);
INSERT INTO metrics VALUES (4, 'validation', 'f1', 0.7, 0.6499999999999999, 0.75, 100, 0);
INSERT INTO aliases VALUES (1, 'prod', 1);
INSERT INTO aliases VALUES (1, 'beta', 3);
INSERT INTO alias_moves VALUES (1, 1, 'prod', '2026-11-26 08:34:08.484052', NULL, 1, NULL);
INSERT INTO alias_moves VALUES (2, 1, 'prod', '2026-11-26 08:34:08.503679', 1, 2, NULL);
INSERT INTO alias_moves VALUES (3, 1, 'beta', '2026-11-26 08:34:08.516140', NULL, 3, NULL);
INSERT INTO alias_moves VALUES (4, 1, 'prod', '2026-11-26 08:34:08.522704', 2, 3, NULL);
INSERT INTO alias_moves VALUES (5, 1, 'prod', '2026-11-26 08:34:08.533349', 3, 2, 4);
INSERT INTO alias_moves VALUES (6, 1, 'prod', '2026-11-26 08:34:08.541135', 2, 1, 2);
INSERT INTO adapter_text (rowid, text) VALUES (1, 'acme/ner
token-classification
dora
org/base
O
B-X');
INSERT INTO adapter_text (rowid, text) VALUES (2, 'zeta/copy
token-classification
lora
org/base
O
B-PER
a copy
# Übersicht');
INSERT INTO adapter_text (rowid, text) VALUES (3, 'beta/dora
token-classification
dora
org/base
O
B-X');
