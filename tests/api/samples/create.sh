curl --request POST \
--url 'https://appname.metered.live/api/v1/room?secretKey={replace_this_with_your_secretKey}' \
--header 'Accept: application/json' \
--header 'Content-Type: application/json' \
--data '
{
"roomName": "string",
"privacy": "public",
"expireUnixSec": 0,
"ejectAtRoomExp": false,
"notBeforeUnixSec": 0,
"maxParticipants": 0,
"autoJoin": true,
"enableRequestToJoin": true,
"enableChat": true,
"enableScreenSharing": true,
"joinVideoOn": false,
"joinAudioOn": false,
"recordRoom": true,
"ejectAfterElapsedTimeInSec": 0,
"meetingJoinWebhook": "string",
"endMeetingAfterNoActivityInSec": 0,
"audioOnlyRoom": false
}
'
