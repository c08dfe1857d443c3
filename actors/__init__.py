"""From Coinbase's wire to market events and raw partitions: decoders, connection, recorder.
One reader turns frames into events for live actors and for imported captures alike.
The Ray actors here keep websockets, books and windows of a group of products."""
