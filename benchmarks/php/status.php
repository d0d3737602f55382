<?php
// A node's status report: one line more in a file, under a lock; nobody waits for the disk.

require __DIR__ . '/lib.php';

header('Content-Type: application/json');
$said = json_decode(file_get_contents('php://input'), true);
if (!isset($said['phase'], $said['node'])) {
    refuse(400, 'node and phase are wanted');
}
$line = json_encode(['time' => date('c'), 'who' => $_SERVER['REMOTE_ADDR']] + $said) . "\n";
file_put_contents(DATA . '/reports.json', $line, FILE_APPEND | LOCK_EX) or refuse(500, 'not kept');
echo json_encode(['success' => true]);
