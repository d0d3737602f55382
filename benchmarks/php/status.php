<?php
// A node's status report: a line in a log, and the node's entry in a file of all; nobody waits for the disk.

require __DIR__ . '/lib.php';

header('Content-Type: application/json');
$said = json_decode(file_get_contents('php://input'), true);
if (!isset($said['phase'], $said['node'])) {
    refuse(400, 'node and phase are wanted');
}
$entry = ['time' => date('c'), 'who' => $_SERVER['REMOTE_ADDR']] + $said;
file_put_contents(DATA . '/reports.log', json_encode($entry) . "\n", FILE_APPEND | LOCK_EX);
$file = fopen(DATA . '/reports.json', 'c+') ?: refuse(500, 'not kept');
flock($file, LOCK_EX);
$nodes = json_decode(stream_get_contents($file), true) ?: [];
$nodes[$said['node']] = $entry;
rewind($file);
ftruncate($file, 0);
fwrite($file, json_encode($nodes, JSON_PRETTY_PRINT));
fclose($file);
echo json_encode(['success' => true]);
